"""DTEM's metric, with the model frozen ("modular training" in the paper); `--frozen false` trains the model too.

The paper's learning rate and length are not repeated here, since they could not be read: these are ours.

    vitrim train recipes/learned/dtem.py --data imagenet --output out/dtem --settings.r 13
"""

from vitrim import Recipe

RECIPE = Recipe(
    model="deit_tiny_patch16_224",
    checkpoint="pretrained",
    method="dtem",
    settings={"r": 13, "learns": True},
    frozen=True,
    epochs=1,
    batch_size=128,
    lr=1e-4,
    lr_batch=None,
    min_lr=1e-6,
    weight_decay=1e-6,
    label_smoothing=0.1,
    checkpoint_every=500,
)
