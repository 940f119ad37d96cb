"""Kinds and ranges of what a config.json says: checked where the file is read, for nobody stands behind its values."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ..kinds import is_number, is_text, is_whole
from ..text import shown

MOST = 10**6  # of fractions, and of what is counted: beyond it, building would not end
SIDE = 2**14  # pixels
CROP_MODES = ("center", "squash", "border")
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos")


class Kind(NamedTuple):
    """What an entry may be, in words and as a test."""

    wanted: str
    fits: Callable[[Any], bool]


def _whole(least: int, most: int) -> Kind:
    return Kind(f"a whole number from {least} to {most}", lambda value: is_whole(value, least, most))


def _number(least: float, most: float) -> Kind:
    return Kind(f"a number from {least:g} to {most:g}", lambda value: _is_number(value) and least <= value <= most)


def _several(what: str, fits: Callable[[Any], bool], counts: tuple[int, ...] = tuple(range(1, 1025))) -> Kind:
    return Kind(what, lambda value: isinstance(value, (tuple, list)) and len(value) in counts and all(map(fits, value)))


def _one_of(words: tuple[str, ...]) -> Kind:
    return Kind(f"one of {', '.join(words)}", lambda value: isinstance(value, str) and value in words)


def _is_number(value: object) -> bool:
    return is_number(value, MOST)


def _is_side(value: object) -> bool:
    return is_whole(value, 1, SIDE)


PIXELS = _several(f"channels, height and width, each from 1 to {SIDE}", _is_side, (3,))
SIDES = Kind(
    f"a whole number of pixels, or height and width, each from 1 to {SIDE}",
    lambda value: (
        _is_side(value) or (isinstance(value, (tuple, list)) and len(value) == 2 and all(map(_is_side, value)))
    ),
)
CROP = _number(0.05, 5)
DATA: Mapping[str, Kind] = {
    "input_size": PIXELS,
    "test_input_size": PIXELS,
    "mean": _several("one number per channel", _is_number),
    "std": _several("one number above 0 per channel", lambda value: _is_number(value) and value > 0),
    "crop_pct": CROP,
    "test_crop_pct": CROP,
    "crop_mode": _one_of(CROP_MODES),
    "interpolation": _one_of(INTERPOLATIONS),
    "label_names": Kind("words", lambda value: isinstance(value, (tuple, list)) and all(map(is_text, value))),
    "label_descriptions": Kind(
        "words, or words by name",
        lambda value: (
            all(map(is_text, value.values() if isinstance(value, Mapping) else value))
            if isinstance(value, (tuple, list, Mapping))
            else False
        ),
    ),
}
ARGUMENTS: Mapping[str, Kind] = {  # others go to the library's builder, their numbers within bounds too
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
    """ValueError, naming the first entry that is of another kind or out of range."""
    for name, value in entries.items():
        kind = kinds.get(name)
        if kind is not None and not kind.fits(value):
            raise ValueError(f"{what} {name} is {kind.wanted}, not {shown(repr(value))}.")
        check_numbers(f"{what} {name}", value)


def check_numbers(where: str, value: object) -> None:
    """ValueError for a number, however deep, that is not finite or out of all proportion."""
    if isinstance(value, Mapping):
        for each in value.values():
            check_numbers(where, each)
    elif isinstance(value, (list, tuple)):
        for each in value:
            check_numbers(where, each)
    elif isinstance(value, float) and not (math.isfinite(value) and abs(value) <= MOST):
        raise ValueError(f"{where} has numbers from {-MOST:,} to {MOST:,}, not {value!r}.")
    elif isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ValueError(f"{where} has whole numbers of at most 64 bits, not {shown(repr(value))}.")
