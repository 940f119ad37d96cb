"""METR over EViT on a trained DeiT-Small, fine-tuned: keep rate 0.5.

Paper     METR (Liu et al., ICLR 2024), official code.
Expected  not stated: the paper's tables are not at hand, only its abstract and the official code.
MACs      2.31 G.
Cost      not stated; 30 epochs, the official script is for 8 GPUs.
Run here  no.

The settings are those of the official script, which are EViT's for fine-tuning with a batch of 2048; the weights of
both losses of the exits (0.15) are the method's defaults. The exits cost nothing at inference.

    torchrun --nproc-per-node 8 -m vitrim train recipes/imagenet/metr_deit_small_finetune_30.py \
        --data imagenet --output out/metr_deit_small_finetune_30
"""

from dataclasses import replace

from vitrim.train.defaults import EVIT_FINETUNE

RECIPE = replace(
    EVIT_FINETUNE,
    method="metr",
    settings={"keep_rate": 0.5},
    batch_size=2048,
    min_lr=5e-07,  # 2e-6 at this batch
)
