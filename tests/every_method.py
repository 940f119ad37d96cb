"""Every registered method at settings that small models can take, from what it says of itself.

A new method needs no line here: how much it is given follows from its `Method.amount`.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import vitrim
from vitrim.core.amount import PerBlock, Share
from vitrim.core.spec import ViTSpec
from vitrim.methods import settings_of

NAMES = vitrim.list_methods()
PLAIN = {name: vitrim.create_method(name) for name in NAMES}
FIXED = [name for name in NAMES if not PLAIN[name].varies]  # methods that keep as many tokens in every image
MERGING = [name for name in NAMES if PLAIN[name].merges]
DROPPING = [name for name in NAMES if PLAIN[name].drops]  # some merge too
SCALED = (vitrim.EViT, vitrim.ToFu)  # EViT fuses by a plain sum, ToFu keeps norms
WEIGHTED_MEANS = [name for name in MERGING if not isinstance(PLAIN[name], SCALED)]
SPEC = ViTSpec(
    name="a model",
    depth=12,
    num_prefix=1,
    has_cls=True,
    pools_patches=False,
    num_patches=196,
    channels=48,
    num_heads=3,
    attention_channels=48,
    attention_macs=4 * 48**2,
    mlp_macs=8 * 48**2,
    num_classes=10,
)
EVERYWHERE = [
    name for name in NAMES if len(PLAIN[name].built_for(SPEC).reducing_layers(SPEC)) > 6
]  # not in three blocks


def amount(name: str, *, per_block: int, share: float | None = None) -> dict[str, Any]:
    """How much the method shall reduce, by the name of its setting; {} where its default will do."""
    own = PLAIN[name].amount
    if isinstance(own, PerBlock):
        return {own.setting: per_block}
    if share == 1.0:
        return neutral(name)
    if isinstance(own, Share) and not own.solved and share is None:
        return {own.setting: 0.5}  # what its default keeps depends on the model
    return {own.setting: share} if isinstance(own, Share) and share is not None else {}


def neutral(name: str) -> dict[str, Any]:
    """The amount at which the method keeps all."""
    own = PLAIN[name].amount
    assert own is not None
    return {own.setting: own.neutral}


def in_layers(name: str, layers: Collection[int], depth: int, *, per_block: int, share: float) -> dict[str, Any]:
    """The same in some blocks alone, where the method can be told which."""
    if "layers" in settings_of(name):
        return amount(name, per_block=per_block, share=share) | {"layers": tuple(layers)}
    own = PLAIN[name].amount
    assert own is not None
    if not isinstance(own, Share) or "curve" in settings_of(name):  # one share says what all blocks do
        return amount(name, per_block=per_block, share=share)
    return {own.setting: [share if layer in layers else own.neutral for layer in range(depth)]}
