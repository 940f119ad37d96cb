"""TM on DeiT-Small from random weights: keep rate 0.7.

Paper     Multi-Scale And Token Mergence (Bian et al., 2023), Table 3 (+TM).
Expected  79.6 % top-1 (EViT: 79.5; --settings.keep_rate 0.5: 79.1, EViT 78.5).
MACs      3.00 G (3.0 in the paper).
Cost      not stated; the paper trains on 8 RTX 3090 GPUs.
Run here  no.

DeiT's training settings. The paper lowers the keep rate by a cosine as EViT does and gives no lengths; EViT's are
taken (start at epoch 10, over 100).

    torchrun --nproc-per-node 8 -m vitrim train recipes/imagenet/tm_deit_small_300.py \
        --data imagenet --output out/tm_deit_small_300
"""

from dataclasses import replace

from vitrim.train.defaults import DEIT

RECIPE = replace(
    DEIT,
    method="token_mergence",
    settings={"keep_rate": 0.7},
    keep_rate_start=10,
    keep_rate_epochs=100,
)
