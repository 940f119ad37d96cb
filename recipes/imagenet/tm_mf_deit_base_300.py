"""TM and MF, the paper's whole model, on DeiT-Base from random weights: keep rate 0.7.

Paper     Multi-Scale And Token Mergence (Bian et al., 2023), Table 1.
Expected  81.5 % top-1 (unreduced: 81.8).
MACs      11.5 G (11.5 in the paper).
Cost      not stated; the paper trains on 8 RTX 3090 GPUs.
Run here  no.

DeiT's training settings. The paper lowers the keep rate by a cosine as EViT does and gives no lengths; EViT's are
taken (start at epoch 10, over 100).
How the two scales are made and fused is in parts our reading, see `vitrim.models.multiscale`.

    torchrun --nproc-per-node 8 -m vitrim train recipes/imagenet/tm_mf_deit_base_300.py \
        --data imagenet --output out/tm_mf_deit_base_300
"""

from dataclasses import replace

from vitrim.train.defaults import DEIT

RECIPE = replace(
    DEIT,
    model="mf_deit_base_patch16_224",
    method="token_mergence",
    settings={"keep_rate": 0.7},
    keep_rate_start=10,
    keep_rate_epochs=100,
)
