"""EViT on LV-ViT-Small from random weights with token labeling: keep rate 0.7 in blocks 4, 8 and 12.

Paper     EViT (Liang et al., ICLR 2022), Table 3b.
Expected  83.0 % top-1 (unreduced: 83.3; --settings.keep_rate 0.5: 82.5).
MACs      4.71 G (4.7 in the paper).
Cost      not stated; the paper trains on 2 A100 GPUs.
Run here  no.

LV-ViT's training settings. `label_maps` is the folder of label maps that the authors of LV-ViT released; with
--label_maps none each patch is told the image's label. The targets of fused tokens are the mean of their patches'. The
keep rate warms up as on DeiT.

    torchrun --nproc-per-node 8 -m vitrim train recipes/imagenet/evit_lvvit_small_300.py \
        --data imagenet --output out/evit_lvvit_small_300
"""

from dataclasses import replace

from vitrim.train.defaults import LVVIT

RECIPE = replace(
    LVVIT,
    method="evit",
    settings={"keep_rate": 0.7, "layers": [4, 8, 12]},
    keep_rate_start=10,
    keep_rate_epochs=100,
)
