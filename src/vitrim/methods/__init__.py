"""The methods by name. One paper is one file; adding a method is its file, one line here, and its test."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType

from ..core.method import Method
from .baselines import Random
from .beyond_attentive import BeyondAttentive
from .evit import EViT
from .token_mergence import TokenMergence
from .tome import ToMe

METHODS: Mapping[str, Callable[..., Method]] = MappingProxyType(
    {
        "evit": EViT,
        "evit-nofuse": partial(EViT, fuse=False),
        "evit+bat": partial(BeyondAttentive, inattentive="fuse"),
        "token_mergence": TokenMergence,
        "beyond_attentive": BeyondAttentive,
        "tome": ToMe,
        "random": Random,
        "feature_norm": partial(EViT, fuse=False, scorer="norm"),
    }
)
