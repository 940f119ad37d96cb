"""Every registered method at settings that small models can take, from what it says of itself.

A new method needs no line here: how much it is given follows from its `Method.amount`.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import vitrim
from vitrim.core.amount import PerBlock, Share
from vitrim.methods import settings_of

NAMES = vitrim.list_methods()
PLAIN = {name: vitrim.create_method(name) for name in NAMES}
FIXED = [name for name in NAMES if not PLAIN[name].varies]  # methods that keep as many tokens in every image
MERGING = [name for name in NAMES if PLAIN[name].merges]
DROPPING = [name for name in NAMES if name not in MERGING]
WEIGHTED_MEANS = [name for name in MERGING if not isinstance(PLAIN[name], vitrim.EViT)]  # EViT fuses by a plain sum
EVERYWHERE = [name for name in NAMES if "layers" not in settings_of(name)]  # methods that act in every block


def amount(name: str, *, per_block: int, share: float | None = None) -> dict[str, Any]:
    """How much the method shall reduce, by the name of its setting; {} where its default will do."""
    own = PLAIN[name].amount
    if isinstance(own, PerBlock):
        return {own.setting: per_block}
    return {own.setting: share} if isinstance(own, Share) and share is not None else {}


def neutral(name: str) -> dict[str, Any]:
    """The amount at which the method keeps all."""
    own = PLAIN[name].amount
    assert own is not None
    return {own.setting: own.neutral}


def in_layers(name: str, layers: Collection[int], depth: int, *, per_block: int, share: float) -> dict[str, Any]:
    """The same in some blocks alone."""
    if name not in EVERYWHERE:
        return amount(name, per_block=per_block, share=share) | {"layers": tuple(layers)}
    own = PLAIN[name].amount
    assert own is not None
    value, neutral = (per_block, 0) if isinstance(own, PerBlock) else (share, own.neutral)
    return {own.setting: [value if layer in layers else neutral for layer in range(depth)]}
