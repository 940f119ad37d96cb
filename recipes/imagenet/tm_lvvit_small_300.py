"""TM on LV-ViT-Small from random weights with token labeling: keep rate 0.5 in blocks 4, 8 and 12.

Paper     Multi-Scale And Token Mergence (Bian et al., 2023), Table 2.
Expected  82.8 % top-1 (unreduced: 83.3; EViT: 82.5).
MACs      3.85 G (3.9 in the paper).
Cost      not stated; the paper trains on 8 RTX 3090 GPUs.
Run here  no.

LV-ViT's training settings. `label_maps` is the folder of label maps that the authors of LV-ViT released; with
--label_maps none each patch is told the image's label. The targets of fused tokens are the mean of their patches'.
The paper's row names no keep rate: 0.5 has its MACs. Nor does it say whether MF is part of it; as its parameters are
LV-ViT's own, it is left out. The keep rate warms up as in EViT.

    torchrun --nproc-per-node 8 -m vitrim train recipes/imagenet/tm_lvvit_small_300.py \
        --data imagenet --output out/tm_lvvit_small_300
"""

from dataclasses import replace

from vitrim.train.defaults import LVVIT

RECIPE = replace(
    LVVIT,
    method="token_mergence",
    settings={"keep_rate": 0.5, "layers": [4, 8, 12]},
    keep_rate_start=10,
    keep_rate_epochs=100,
)
