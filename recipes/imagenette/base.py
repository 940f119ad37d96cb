"""DeiT-Tiny at 96 pixels on imagenette, all tokens kept: where every run of the imagenette experiment starts.

ImageNet weights, the head's rows of the ten classes kept. Updates of 32 images let the model get used to a quarter
of the pixels. Takes about five minutes on two cores.

    vitrim train recipes/imagenette/base.py --data imagenette2-128 --output out/base --checkpoint deit_tiny.safetensors
"""

from vitrim import Recipe

RECIPE = Recipe(
    model="deit_tiny_patch16_224",
    checkpoint="pretrained",
    img_size=96,
    epochs=0.7,
    batch_size=32,
    lr=5e-5,
    lr_batch=None,
    min_lr=1e-6,
    warmup_epochs=0.1,
    weight_decay=0.05,
    crop_scale=(0.35, 1.0),
    checkpoint_every=100,
    workers=0,
)
