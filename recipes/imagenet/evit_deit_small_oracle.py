"""EViT on DeiT-Small that starts from a trained DeiT-Small (the oracle): keep rate 0.7.

Paper     EViT (Liang et al., ICLR 2022), Table 7.
Expected  80.8 % top-1 (--epochs 450: 81.0; --epochs 600: 81.3).
MACs      3.03 G (3.25 in the paper's count, in which DeiT-S has 5.0).
Cost      not stated; the paper trains on 2 A100 GPUs.
Run here  no.

The oracle is nothing but the start: training goes on like that from random weights, for 300 epochs too (the paper).
DeiT's training settings. The paper warms the keep rate up by a cosine; start and length (epoch 10, over 100) are those
of its official code.

    torchrun --nproc-per-node 8 -m vitrim train recipes/imagenet/evit_deit_small_oracle.py \
        --data imagenet --output out/evit_deit_small_oracle
"""

from dataclasses import replace

from vitrim.train.defaults import DEIT

RECIPE = replace(
    DEIT,
    checkpoint="pretrained",
    method="evit",
    settings={"keep_rate": 0.7},
    keep_rate_start=10,
    keep_rate_epochs=100,
)
