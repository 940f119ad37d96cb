"""Vision Transformers made faster by carrying fewer tokens.

>>> import timm, vitrim
>>> model = vitrim.reduce_tokens(timm.create_model("deit_tiny_patch16_224"), "evit", keep_rate=0.7)
"""

from .api import list_methods, method_from, reduce_tokens, restore
from .backbones.reader import UnsupportedModel
from .core.method import Method
from .methods import BeyondAttentive, EViT, Random, TokenMergence, ToMe

__version__ = "0.1.0"

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
