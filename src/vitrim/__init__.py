"""Vision Transformers made faster by carrying fewer tokens.

>>> import timm, vitrim
>>> model = vitrim.reduce_tokens(timm.create_model("deit_tiny_patch16_224"), "evit", keep_rate=0.7)

The names below are imported on first use, so that the command line can answer before torch is loaded.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api import list_methods, method_from, reduce_tokens, restore
    from .backbones.reader import UnsupportedModel
    from .core.method import Method
    from .methods import BeyondAttentive, EViT, Random, TokenMergence, ToMe

__version__ = "0.1.0"

_HOME = {
    "BeyondAttentive": ".methods",
    "EViT": ".methods",
    "Method": ".core.method",
    "Random": ".methods",
    "ToMe": ".methods",
    "TokenMergence": ".methods",
    "UnsupportedModel": ".backbones.reader",
    "list_methods": ".api",
    "method_from": ".api",
    "reduce_tokens": ".api",
    "restore": ".api",
}

__all__ = [
    "BeyondAttentive",
    "EViT",
    "Method",
    "Random",
    "ToMe",
    "TokenMergence",
    "UnsupportedModel",
    "list_methods",
    "method_from",
    "reduce_tokens",
    "restore",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'vitrim' has no attribute {name!r}; it has {', '.join(__all__)}.")
    value = getattr(importlib.import_module(_HOME[name], __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
