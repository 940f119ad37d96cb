"""LTMP's thresholds for a model and a budget, with the model frozen.

Paper and official code: one epoch, thresholds for merging start at 0.9 and learn at 0.005, those for pruning start at 0
and learn at a thousandth of that.

    vitrim train recipes/learned/ltmp.py --data imagenet --output out/ltmp --gmacs 0.8
"""

from vitrim import Recipe

RECIPE = Recipe(
    model="deit_tiny_patch16_224",
    checkpoint="pretrained",
    method="ltmp",
    gmacs=0.8,
    frozen=True,
    epochs=1,
    batch_size=128,
    lr=0.005,
    lr_batch=None,
    min_lr=0,
    weight_decay=0,
    label_smoothing=0.1,
    checkpoint_every=500,
)
