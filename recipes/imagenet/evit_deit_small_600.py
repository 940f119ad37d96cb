"""EViT on DeiT-Small from random weights, trained twice as long: keep rate 0.7.

Paper     EViT (Liang et al., ICLR 2022), Table 5.
Expected  81.0 % top-1 (300 epochs: 79.5; --epochs 450: 80.2).
MACs      3.03 G (3.25 in the paper's count, in which DeiT-S has 5.0).
Cost      not stated; the paper trains on 2 A100 GPUs.
Run here  no.

DeiT's training settings. The paper warms the keep rate up by a cosine; start and length (epoch 10, over 100) are those
of its official code.

    torchrun --nproc-per-node 8 -m vitrim train recipes/imagenet/evit_deit_small_600.py \
        --data imagenet --output out/evit_deit_small_600
"""

from dataclasses import replace

from vitrim.train.defaults import DEIT

RECIPE = replace(
    DEIT,
    method="evit",
    settings={"keep_rate": 0.7},
    epochs=600,
    keep_rate_start=10,
    keep_rate_epochs=100,
)
