"""METR over EViT on a trained DeiT-Small, fine-tuned: DiffRate's tokens for 2.9 G.

Paper     METR (Liu et al., ICLR 2024), official code.
Expected  not stated: the paper's tables are not at hand, only its abstract and the official code.
MACs      2.93 G (2.9 where the list was published).
Cost      not stated; 30 epochs, the official script is for 8 GPUs.
Run here  no.

The settings are those of the official script, which are EViT's for fine-tuning with a batch of 2048; the weights of
both losses of the exits (0.15) are the method's defaults. The exits cost nothing at inference.
The number of patches that each block keeps was learned by DiffRate; the fused token comes on top. Each block but the
first reduces; that the exits stay after blocks 3, 6 and 9 is our reading.

    torchrun --nproc-per-node 8 -m vitrim train recipes/imagenet/metr_deit_small_2_9g_finetune_30.py \
        --data imagenet --output out/metr_deit_small_2_9g_finetune_30
"""

from dataclasses import replace

from vitrim.train.defaults import EVIT_FINETUNE

RECIPE = replace(
    EVIT_FINETUNE,
    method="metr",
    settings={
        "tokens": [196, 193, 175, 155, 140, 132, 120, 106, 87, 63, 55, 2],
        "exits": [3, 6, 9],
    },
    batch_size=2048,
    min_lr=5e-07,  # 2e-6 at this batch
)
