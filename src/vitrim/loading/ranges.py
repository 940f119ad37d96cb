"""Check the types and ranges of the arguments of a model, which may come from anyone in a config.json."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

from ..kinds import Test, is_number, is_text, is_whole, list_of, named
from ..text import shown

MOST = 10**6  # the largest fraction or count; with larger ones, building a model might not end
SIDE = 2**14  # pixels
CROP_MODES = ("center", "squash", "border")
_is_number: Test = partial(is_number, most=MOST)
_is_side: Test = partial(is_whole, least=1, most=SIDE)
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos")


class Kind(NamedTuple):
    """The values that an entry may have."""

    wanted: str  # in words
    fits: Callable[[Any], bool]


def _whole(least: int, most: int) -> Kind:
    return Kind(f"a whole number from {least} to {most}", lambda value: is_whole(value, least, most))


def _number(least: float, most: float) -> Kind:
    return Kind(f"a number from {least:g} to {most:g}", lambda value: _is_number(value) and least <= value <= most)


def _several(what: str, fits: Callable[[Any], bool], counts: tuple[int, ...] = tuple(range(1, 1025))) -> Kind:
    return Kind(what, lambda value: list_of(fits)(value) and len(value) in counts)


def one_of(*words: str) -> Kind:
    """One of these strings."""
    return Kind(f"one of {', '.join(words)}", lambda value: isinstance(value, str) and value in words)


PIXELS = _several(f"channels, height and width, each from 1 to {SIDE}", _is_side, (3,))
SIDES = Kind(
    f"a whole number of pixels, or height and width, each from 1 to {SIDE}",
    lambda value: _is_side(value) or (list_of(_is_side)(value) and len(value) == 2),
)
CROP = _number(0.05, 5)
DATA: Mapping[str, Kind] = {
    "input_size": PIXELS,
    "test_input_size": PIXELS,
    "mean": _several("one number per channel", _is_number),
    "std": _several("one number above 0 per channel", lambda value: _is_number(value) and value > 0),
    "crop_pct": CROP,
    "test_crop_pct": CROP,
    "crop_mode": one_of(*CROP_MODES),
    "interpolation": one_of(*INTERPOLATIONS),
    "label_names": Kind("a list of strings", list_of(is_text)),
    "label_descriptions": Kind(
        "a list of strings, or strings by name", lambda value: list_of(is_text)(value) or named(is_text)(value)
    ),
}
ARGUMENTS: Mapping[str, Kind] = {  # in arguments that are not listed, only the size of numbers is checked
    "depth": _whole(1, 1024),
    "num_heads": _whole(1, 1024),
    "embed_dim": _whole(1, 2**16),
    "in_chans": _whole(1, 1024),
    "num_classes": _whole(0, MOST),
    "reg_tokens": _whole(0, SIDE),
    "mlp_ratio": _number(0.01, 64),
    "img_size": SIDES,
    "patch_size": SIDES,
    "image_size": SIDES,
    **dict.fromkeys(("num_layers", "layers"), _whole(1, 1024)),
    **dict.fromkeys(("hidden_dim", "mlp_dim", "width", "head_width"), _whole(1, 2**16)),
}


def check(what: str, entries: Mapping[str, Any], kinds: Mapping[str, Kind]) -> None:
    """Raise ValueError for the first entry of another type or out of range."""
    for name, value in entries.items():
        kind = kinds.get(name)
        if kind is not None and not kind.fits(value):
            raise ValueError(f"{what} {name} must be {kind.wanted}, not {shown(repr(value))}.")
        check_numbers(f"{what} {name}", value)


def check_numbers(where: str, value: object) -> None:
    """Raise ValueError for a number, at any depth, that is not finite or far too large."""
    if isinstance(value, Mapping):
        for each in value.values():
            check_numbers(where, each)
    elif isinstance(value, (list, tuple)):
        for each in value:
            check_numbers(where, each)
    elif isinstance(value, float) and not (math.isfinite(value) and abs(value) <= MOST):
        raise ValueError(f"{where} must have numbers from {-MOST:,} to {MOST:,}, not {value!r}.")
    elif isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ValueError(f"{where} must have whole numbers of at most 64 bits, not {shown(repr(value))}.")


def check_multiple(name: str, img_size: int, patch: int) -> None:
    """Raise ValueError unless the image size is a multiple of the patch size."""
    if img_size % patch:
        below, above = img_size // patch * patch, (img_size // patch + 1) * patch
        close = f"{below} or {above}" if below else str(above)
        raise ValueError(f"{name} has patches of {patch} pixels, so --img-size must be a multiple of {patch}: {close}.")
