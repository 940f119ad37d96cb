"""Check that the fields of a recipe have values of the right type and range."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields
from functools import partial
from typing import Any

from ..kinds import Test, is_number, is_whole, list_of
from ..loading.ranges import Kind, one_of
from ..text import shown

LARGEST = 10**12  # of any number: with larger ones a run would never end
_is_number: Test = partial(is_number, most=LARGEST)


def _at_least(low: float, high: float = LARGEST) -> Kind:
    wanted = f"a number of at least {low:g}" if high == LARGEST else f"a number from {low:g} to {high:g}"
    return Kind(wanted, lambda value: low <= value <= high)


def _is_named(value: object) -> bool:
    return isinstance(value, Mapping) and all(isinstance(name, str) for name in value)


KINDS: Mapping[str, Kind] = {  # by annotation
    "str": Kind("a text", lambda value: isinstance(value, str) and bool(value)),
    "int": Kind("a whole number", partial(is_whole, least=-LARGEST, most=LARGEST)),
    "float": Kind("a number", _is_number),
    "bool": Kind("true or false", lambda value: isinstance(value, bool)),
    "tuple[float, float]": Kind(
        "two numbers such as [0.08, 1.0]", lambda value: list_of(_is_number)(value) and len(value) == 2
    ),
    "Mapping[str, Any]": Kind("names with values", _is_named),
}
SHARE, COUNT, NOT_NEGATIVE = _at_least(0, 1), _at_least(1), _at_least(0)
LIMITS: Mapping[str, Kind] = {  # by field; None is allowed if the annotation allows it
    "img_size": COUNT,
    "num_classes": COUNT,
    "head": one_of("auto", "new"),
    "gmacs": Kind("a number above 0", lambda value: value > 0),
    "keep_rate_start": NOT_NEGATIVE,
    "keep_rate_epochs": NOT_NEGATIVE,
    "epochs": _at_least(0.001),
    "batch_size": COUNT,
    "accumulate": _at_least(1, 10**6),
    "schedule": one_of("cosine", "tanh"),  # timm's other schedules need more fields
    "lr": NOT_NEGATIVE,
    "lr_batch": COUNT,
    "min_lr": NOT_NEGATIVE,
    "warmup_epochs": NOT_NEGATIVE,
    "warmup_lr": NOT_NEGATIVE,
    "weight_decay": NOT_NEGATIVE,
    "layer_decay": Kind("a number above 0 and at most 1", lambda value: 0 < value <= 1),
    "method_lr": NOT_NEGATIVE,
    "clip_grad": Kind("a number above 0", lambda value: value > 0),
    "ema_decay": Kind("a number from 0 to below 1, such as 0.9999", lambda value: 0 <= value < 1),
    "drop_path": SHARE,
    "dropout": SHARE,
    "label_smoothing": SHARE,
    "mixup": NOT_NEGATIVE,
    "cutmix": NOT_NEGATIVE,
    "crop_scale": Kind("two shares of the image, the smaller first", lambda pair: 0 < pair[0] <= pair[1] <= 1),
    "hflip": SHARE,
    "color_jitter": NOT_NEGATIVE,
    "auto_augment": Kind(  # timm overlooks a part without a number
        "a policy of timm with its numbers, such as rand-m9-mstd0.5-inc1",
        lambda text: re.fullmatch(r"\w+(-(t\w+|[a-z]+[\d.]+))*", text) is not None,
    ),
    "erasing": SHARE,
    "repeats": _at_least(1, 10**6),
    "distillation": one_of("none", "soft", "hard"),
    "distillation_weight": SHARE,
    "distillation_temperature": _at_least(1e-6),
    "dense_weight": NOT_NEGATIVE,
    "precision": one_of("fp32", "bf16", "fp16"),
    "sharding": one_of("ddp", "fsdp"),
    "eval_batch_size": COUNT,
    "workers": _at_least(0, 1024),
    "log_every": COUNT,
    "checkpoint_every": COUNT,
    "checkpoints_kept": _at_least(1, 10**6),
}


def check_kinds(recipe: Any) -> None:
    """Raise ValueError unless every field has the type of its annotation."""
    for entry in fields(recipe):
        kind, _, none = str(entry.type).partition(" | ")
        _check(recipe, entry.name, KINDS[kind], bool(none))


def check_limits(recipe: Any) -> None:
    """Raise ValueError unless every field is in its range."""
    optional = {entry.name for entry in fields(recipe) if " | " in str(entry.type)}
    for name, limit in LIMITS.items():
        _check(recipe, name, limit, name in optional)


def _check(recipe: Any, name: str, limit: Kind, optional: bool) -> None:
    value = getattr(recipe, name)
    if (optional and value is None) or limit.fits(value):
        return
    wanted = f"{limit.wanted} or none" if optional else limit.wanted
    raise ValueError(f"recipe: {name} must be {wanted}, not {shown(repr(value))}.")
