"""The methods by name. One paper is one file; adding a method is its file, one line here, and its test."""

from __future__ import annotations

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
        if method not in METHODS:
            raise ValueError(f"metr: no method is called {method!r}; there are {', '.join(sorted(METHODS))}.")
        method = METHODS[method](**inner)
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
