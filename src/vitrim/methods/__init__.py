"""The methods by name. One paper is one file; adding a method is its file, one line here, and its test."""

from __future__ import annotations

from functools import partial
from typing import Any

from ..core.method import Method
from .evit import EViT

METHODS = {
    "evit": EViT,
    "evit-nofuse": partial(EViT, fuse=False),
}
