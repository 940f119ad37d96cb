"""One forward of a reduced model."""

from __future__ import annotations

from typing import NamedTuple

from .listening import Follower
from .method import Method


class Run(NamedTuple):
    """What the first block settles for the whole forward, so that later changes act from the next forward on."""

    method: Method  # built for the model, without weights
    keeps_all: bool = False  # whether no block reduces
    max_chunked_tokens: int = 0  # see `Attention.output`
    followers: tuple[Follower, ...] = ()
