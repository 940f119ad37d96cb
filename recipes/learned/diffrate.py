"""DiffRate's search: counts of patches per block for a model and a budget, with the model frozen.

Paper, section 4: AdamW, learning rate 0.01 falling to 0.001, 3 epochs, label smoothing 0.1. The paper's batch is 1024
images; a smaller one takes more updates. The counts are in the line that the run ends with, in `summary.json`, and in
the saved model.

    vitrim train recipes/learned/diffrate.py --data imagenet --output out/search --gmacs 0.8
"""

from vitrim import Recipe

RECIPE = Recipe(
    model="deit_tiny_patch16_224",
    checkpoint="pretrained",
    method="diffrate",
    gmacs=0.8,
    frozen=True,
    epochs=3,
    batch_size=256,
    lr=0.01,
    lr_batch=None,
    min_lr=0.001,
    weight_decay=0,
    label_smoothing=0.1,
    checkpoint_every=200,
)
