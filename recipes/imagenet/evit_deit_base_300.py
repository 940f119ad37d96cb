"""EViT on DeiT-Base from random weights: keep rate 0.7, the other patches fused.

Paper     EViT (Liang et al., ICLR 2022), Table 3a.
Expected  81.3 % top-1 (unreduced: 81.8).
MACs      11.6 G (12.0 in the paper's count, in which DeiT-B has 18.3).
Cost      not stated; the paper trains on 2 A100 GPUs.
Run here  no.

DeiT's training settings. The paper warms the keep rate up by a cosine; start and length (epoch 10, over 100) are those
of its official code.

Other rows of the table, by --settings.keep_rate: 0.9 has 81.8 %, 0.8 81.7 %, 0.6 80.9 %, 0.5 80.0 %.

    torchrun --nproc-per-node 8 -m vitrim train recipes/imagenet/evit_deit_base_300.py \
        --data imagenet --output out/evit_deit_base_300
"""

from dataclasses import replace

from vitrim.train.defaults import DEIT

RECIPE = replace(
    DEIT,
    model="deit_base_patch16_224",
    method="evit",
    settings={"keep_rate": 0.7},
    keep_rate_start=10,
    keep_rate_epochs=100,
)
