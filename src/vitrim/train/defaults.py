"""Training settings that several recipes share: those of DeiT and LV-ViT, and EViT's fine-tuning.

DEIT: Touvron et al., ICML 2021, Table 9, and its official code (Apache-2.0). EViT, TM, MF and BAT train with it.
LVVIT: Jiang et al., NeurIPS 2021, and the defaults of its official code (Apache-2.0), with its released label maps.
EVIT_FINETUNE: `finetune.sh` of EViT's official code (Apache-2.0). METR uses the same with larger batches.

All are for ImageNet-1k on GPUs, in bf16 instead of fp16. The originals do not scale min_lr with the batch. Here it is
scaled like lr, so it is given such that the usual batch has the original's value.
"""

from __future__ import annotations

from dataclasses import replace

from .recipe import Recipe

DEIT = Recipe(
    model="deit_small_patch16_224",
    num_classes=1000,
    epochs=300,
    batch_size=1024,
    lr=5e-4,  # for 512 images
    min_lr=5e-6,  # 1e-5 at a batch of 1024
    warmup_epochs=5,
    weight_decay=0.05,
    drop_path=0.1,
    label_smoothing=0.1,
    mixup=0.8,
    cutmix=1.0,
    auto_augment="rand-m9-mstd0.5-inc1",
    erasing=0.25,
    repeats=3,
    precision="bf16",
    workers=10,
    log_every=50,
    checkpoint_every=2000,
)
"""Training DeiT from random weights. The originals also average the weights: `ema_decay=0.99996`."""

EVIT_FINETUNE = replace(
    DEIT,
    checkpoint="pretrained",
    epochs=30,
    lr=2e-5,  # for 512 images
    min_lr=1e-6,  # 2e-6 at a batch of 1024
    warmup_epochs=0,
    weight_decay=1e-6,
    drop_path=0,  # the official code trains in eval mode: without drop-path and dropout
)
"""Fine-tuning a trained DeiT to fewer tokens, at the target keep rate from the start."""

LVVIT = replace(
    DEIT,
    model="lvvit_small",
    lr=1.6e-3,
    lr_batch=1024,
    min_lr=1e-5,
    mixup=0,
    cutmix=0,
    repeats=1,
    token_labeling=True,
    label_maps="label_maps",
    dense_weight=1.0,  # the released code's; the paper says 0.5
)
"""Training LV-ViT from random weights with token labeling, with MixToken in place of mixup and cutmix."""
