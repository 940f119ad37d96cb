"""BAT on LV-ViT-Small from random weights with token labeling: keep rate 0.7 in blocks 4, 8 and 12.

Paper     BAT, Beyond Attentive Tokens (Long et al., CVPR 2023), Table 2.
Expected  83.1 % top-1 (unreduced: 83.3; EViT: 83.0).
MACs      4.68 G (4.7 in the paper).
Cost      not stated; the paper trains on 8 V100 GPUs.
Run here  no.

LV-ViT's training settings. `label_maps` is the folder of label maps that the authors of LV-ViT released; with
--label_maps none each patch is told the image's label. The targets of fused tokens are the mean of their patches'.
The paper's "4th, 8th and 12th layer" is read as blocks counted from 0, which have its multiply-adds: counted from 1
they would have 4.47 G. The keep rate falls over 100 epochs (the paper).

    torchrun --nproc-per-node 8 -m vitrim train recipes/imagenet/bat_lvvit_small_300.py \
        --data imagenet --output out/bat_lvvit_small_300
"""

from dataclasses import replace

from vitrim.train.defaults import LVVIT

RECIPE = replace(
    LVVIT,
    method="beyond_attentive",
    settings={"keep_rate": 0.7, "layers": [4, 8, 12]},
    keep_rate_epochs=100,
)
