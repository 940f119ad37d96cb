"""Whether the values of a recipe are of the kind that its fields take. ValueErrors name field, kind and value."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

from .. import kinds
from ..text import shown

LARGEST = 10**12  # of any number: beyond it nothing would end


def is_number(value: object) -> bool:
    """A number within reason, so neither NaN nor infinity; truth values are none."""
    return kinds.is_number(value, LARGEST)


def _is_whole(value: object) -> bool:
    return kinds.is_whole(value, -LARGEST, LARGEST)


def _is_range(value: object) -> bool:
    return isinstance(value, tuple | list) and len(value) == 2 and all(map(is_number, value))


KINDS: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "str": ("a text", lambda value: isinstance(value, str) and bool(value)),
    "int": ("a whole number", _is_whole),
    "float": ("a number", is_number),
    "bool": ("true or false", lambda value: isinstance(value, bool)),
    "tuple[float, float]": ("two numbers such as [0.08, 1.0]", _is_range),
    "Mapping[str, Any]": ("names with values", lambda value: isinstance(value, Mapping)),
}


def check_kinds(recipe: Any) -> None:
    """Every field holds what its annotation says."""
    for entry in fields(recipe):
        kind, _, none = str(entry.type).partition(" | ")
        words, fits = KINDS[kind]
        value = getattr(recipe, entry.name)
        if not (fits(value) or (none and value is None)):
            wanted = f"{words} or none" if none else words
            raise ValueError(f"recipe: {entry.name} must be {wanted}, not {shown(repr(value))}.")


def check_optional(recipe: Any) -> None:
    """Fields that may be None make sense where they are not."""
    for name in ("img_size", "num_classes", "lr_batch"):
        value = getattr(recipe, name)
        if value is not None and value < 1:
            raise ValueError(f"recipe: {name} must be at least 1 or none, not {value!r}.")
    if recipe.clip_grad is not None and recipe.clip_grad <= 0:
        raise ValueError(f"recipe: clip_grad must be above 0 or none, not {recipe.clip_grad!r}.")
    if recipe.layer_decay is not None and not 0 < recipe.layer_decay <= 1:
        raise ValueError(f"recipe: layer_decay must be above 0 and at most 1, or none, not {recipe.layer_decay!r}.")
    low, high = recipe.crop_scale
    if not 0 < low <= high <= 1:
        raise ValueError(f"recipe: crop_scale must be two shares of the image, the smaller first, not {low}, {high}.")
    if recipe.ema_decay == 1:
        raise ValueError("recipe: ema_decay 1 would never change the moving average: take say 0.9999, or 0 for none.")
