"""EViT on a trained DeiT-Small, fine-tuned: keep rate 0.7 from the first update.

Paper     EViT (Liang et al., ICLR 2022), `finetune.sh` of the official code.
Expected  not stated. Off the shelf 78.5 % (Table 1, dropped), trained for 300 epochs 79.5 % (Table 2b).
MACs      3.03 G.
Cost      not stated; 30 epochs, `finetune.sh` is for 8 GPUs.
Run here  no.

The settings are those of `finetune.sh`, on DeiT's augmentation. There the model stays in eval mode, so that dropout and
drop-path are off: here drop_path is 0, which is the same. The code also keeps a moving average of the weights; add
`--ema-decay 0.99996` for it.

    torchrun --nproc-per-node 8 -m vitrim train recipes/imagenet/evit_deit_small_finetune_30.py \
        --data imagenet --output out/evit_deit_small_finetune_30
"""

from dataclasses import replace

from vitrim.train.defaults import EVIT_FINETUNE

RECIPE = replace(
    EVIT_FINETUNE,
    method="evit",
    settings={"keep_rate": 0.7},
)
