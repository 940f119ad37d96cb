"""EViT on DeiT-Small from random weights: keep rate 0.7, the other patches fused.

Paper     EViT (Liang et al., ICLR 2022), Table 2b.
Expected  79.5 % top-1, the mean of three runs (unreduced: 79.8).
MACs      3.03 G (3.2 in the paper's count, in which DeiT-S has 5.0).
Cost      not stated; the paper trains on 2 A100 GPUs.
Run here  no.

DeiT's training settings. The paper warms the keep rate up by a cosine; start and length (epoch 10, over 100) are those
of its official code.

Other rows of the table, by --settings.keep_rate: 0.9 has 79.8 %, 0.8 79.8 %, 0.6 78.9 %, 0.5 78.5 %.

    torchrun --nproc-per-node 8 -m vitrim train recipes/imagenet/evit_deit_small_300.py \
        --data imagenet --output out/evit_deit_small_300
"""

from dataclasses import replace

from vitrim.train.defaults import DEIT

RECIPE = replace(
    DEIT,
    method="evit",
    settings={"keep_rate": 0.7},
    keep_rate_start=10,
    keep_rate_epochs=100,
)
