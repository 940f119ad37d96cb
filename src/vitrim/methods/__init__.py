"""The methods by name. One paper is one file; adding a method is its file, one line here, and its test."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import partial
from types import MappingProxyType
from typing import Any

from ..core.method import Method
from .attention_mass import AttentionMass
from .baselines import Random
from .beyond_attentive import BeyondAttentive
from .evit import EViT
from .metr import METR
from .token_mergence import TokenMergence
from .tome import ToMe


def metr(method: Method | str = "evit", **settings: Any) -> METR:
    """METR over a method or the name of one (default: EViT with fusion), which takes the settings that METR has not."""
    own = {field.name for field in fields(METR)}
    inner = {name: value for name, value in settings.items() if name not in own}
    if isinstance(method, str):
        method = method_from(method, **inner)
    elif inner:
        raise TypeError(f"{', '.join(inner)} go with a method's name, and {method!r} is already made")
    return METR(method=method, **{name: value for name, value in settings.items() if name in own})


METHODS: Mapping[str, Callable[..., Method]] = MappingProxyType(
    {
        "evit": EViT,
        "evit-nofuse": partial(EViT, fuse=False),
        "evit+bat": partial(BeyondAttentive, inattentive="fuse"),
        "metr": metr,
        "token_mergence": TokenMergence,
        "beyond_attentive": BeyondAttentive,
        "tome": ToMe,
        "attention_mass": AttentionMass,
        "random": Random,
        "feature_norm": partial(EViT, fuse=False, scorer="norm"),
    }
)


def method_from(name: str, **settings: Any) -> Method:
    """The method of that name with those settings.

    >>> method_from("evit", keep_rate=0.5).keep_rate
    0.5
    """
    if name not in METHODS:
        raise ValueError(f"no method is called {name!r}; there are {', '.join(sorted(METHODS))}.")
    _check_fixed(name, settings)
    try:
        return METHODS[name](**settings)
    except TypeError as error:
        known = settings_of(name)
        unknown = [setting for setting in settings if setting not in known]
        wrong = f"not {' or '.join(unknown)}" if unknown else str(error)
        raise ValueError(f"method {name!r} takes the settings {', '.join(known)}: {wrong}.") from error


def _check_fixed(name: str, settings: Mapping[str, Any]) -> None:
    """ValueError for a setting that says otherwise than the name, 'evit-nofuse' with fuse=True."""
    make = METHODS[name]
    fixed = make.keywords if isinstance(make, partial) else {}
    for setting, value in settings.items():
        if setting in fixed and value != fixed[setting]:
            plain = next(other for other, each in METHODS.items() if isinstance(make, partial) and each is make.func)
            raise ValueError(
                f"{name!r} means {setting}={fixed[setting]!r}, so {setting}={value!r} cannot be given: take {plain!r}."
            )


def settings_of(name: str) -> dict[str, Any]:
    """The settings that go with a method's name, with their defaults; for METR, those of EViT inside it too."""
    make = METHODS[name]
    if make is metr:
        own = {field.name: field.default for field in fields(METR)}
        return {**own, "method": "evit", **settings_of("evit")}
    fixed = make.keywords if isinstance(make, partial) else {}
    return {key: each.default for key, each in inspect.signature(make).parameters.items() if key not in fixed}
