"""DeiT-Tiny on imagenette with fewer tokens: one cell of the imagenette experiment.

Goes on from `base.py` for 100 updates of 32 images, with the keep rate at its target from the first one, as
EViT fine-tunes. METR adds its exit heads; nothing else differs. `python -m benchmarks imagenette` runs all cells.
Takes about two minutes on one core.

    vitrim train recipes/imagenette/reduced.py --data imagenette2-128 --output out/evit-0.5 \
        --checkpoint out/base/model --method evit --settings.keep_rate 0.5 --seed 0
"""

from vitrim import Recipe

RECIPE = Recipe(
    model="deit_tiny_patch16_224",
    checkpoint="out/base/model",
    img_size=96,
    num_classes=10,
    method="evit",
    settings={"keep_rate": 0.5},
    epochs=0.34,
    batch_size=32,
    lr=1e-4,
    lr_batch=None,
    min_lr=1e-6,
    warmup_epochs=0.05,
    weight_decay=0.05,
    crop_scale=(0.35, 1.0),
    checkpoint_every=1000,
    checkpoints_kept=1,
    log_every=20,
    workers=0,
    tensorboard=False,
)
