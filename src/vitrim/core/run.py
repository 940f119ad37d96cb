"""One forward of a reduced model."""

from __future__ import annotations

from typing import NamedTuple

from .listening import Follower
from .method import Method


class Run(NamedTuple):
    """What is settled for a whole forward at its first block, whatever is changed meanwhile."""

    method: Method  # as built for the model, without weights
    keeps_all: bool = False  # whether all blocks are known to keep all tokens
    max_chunked_tokens: int = 0  # how attention runs: see `Attention.output`
    followers: tuple[Follower, ...] = ()
