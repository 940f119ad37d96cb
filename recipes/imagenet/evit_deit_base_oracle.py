"""EViT on DeiT-Base that starts from a trained DeiT-Base (the oracle): keep rate 0.7.

Paper     EViT (Liang et al., ICLR 2022), Table 7.
Expected  82.1 % top-1 (unreduced, and no oracle: 81.8 and 81.3).
MACs      11.6 G (12.0 in the paper's count, in which DeiT-B has 18.3).
Cost      not stated; the paper trains on 2 A100 GPUs.
Run here  no.

The paper's caption names DeiT-S as the oracle and its text DeiT-S and DeiT-B; weights fit their own architecture only.
DeiT's training settings. The paper warms the keep rate up by a cosine; start and length (epoch 10, over 100) are those
of its official code.

    torchrun --nproc-per-node 8 -m vitrim train recipes/imagenet/evit_deit_base_oracle.py \
        --data imagenet --output out/evit_deit_base_oracle
"""

from dataclasses import replace

from vitrim.train.defaults import DEIT

RECIPE = replace(
    DEIT,
    model="deit_base_patch16_224",
    checkpoint="pretrained",
    method="evit",
    settings={"keep_rate": 0.7},
    keep_rate_start=10,
    keep_rate_epochs=100,
)
