"""EViT on DeiT-Small for larger images at the cost of DeiT-Small: 304 pixels, keep rate 0.5.

Paper     EViT (Liang et al., ICLR 2022), Table 6a.
Expected  81.0 % top-1 (DeiT-S at 224 pixels: 79.8).
MACs      4.44 G (4.97 in the paper's count, in which DeiT-S has 5.0).
Cost      not stated; the paper trains on 2 A100 GPUs.
Run here  no.

DeiT's training settings. The paper warms the keep rate up by a cosine; start and length (epoch 10, over 100) are those
of its official code.

Other rows of the table, by --img_size and --settings.keep_rate: 256 and 0.5 have 79.3 %, 288 and 0.5 80.1 %, 256 and
0.6 80.0 %, 288 and 0.6 81.0 %, 272 and 0.7 80.3 %.

    torchrun --nproc-per-node 8 -m vitrim train recipes/imagenet/evit_deit_small_high_resolution.py \
        --data imagenet --output out/evit_deit_small_high_resolution
"""

from dataclasses import replace

from vitrim.train.defaults import DEIT

RECIPE = replace(
    DEIT,
    img_size=304,
    method="evit",
    settings={"keep_rate": 0.5},
    keep_rate_start=10,
    keep_rate_epochs=100,
)
