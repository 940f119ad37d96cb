"""Listeners that follow the forwards of a stack: traces, features, losses, exits.

Listeners are in a context variable and not on the model. So each thread follows its own forwards only, and a copy of a
model has no listeners. A `Follower` belongs to one forward: the first block makes it, and it travels with the tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

from torch import Tensor

from .spec import ViTSpec
from .tokens import Tokens


class Follower:
    """Follows one forward."""

    def after_block(self, block: Any, tokens: Tokens, changed: bool) -> Tokens:
        """Called after each block; returns the tokens to go on with. changed: whether the block moved patches."""
        return tokens

    def finish(self, tokens: Tokens) -> None:
        """Called once, with the tokens that leave the last block."""


class Listener(Follower):
    """Follows every forward of one stack, by itself or with a follower for each."""

    traced = False  # whether tokens track where every patch is
    collects = False  # whether methods collect tensors for their losses (`Tokens.aux`)
    exclusive = False  # whether only one exclusive listener is allowed at a time

    def begin(self, x_BNC: Tensor) -> Follower:
        """The follower of the forward that starts with these features."""
        return self


class Snapshot(NamedTuple):
    """The tokens after one block."""

    layer: int
    tokens: Tokens


class Recorder(Listener):
    """Appends a snapshot after every block, or after every block that moves patches."""

    traced = exclusive = True

    def __init__(self, snapshots: list[Snapshot], *, every_block: bool = False):
        self.snapshots, self.every_block = snapshots, every_block

    def after_block(self, block: Any, tokens: Tokens, changed: bool) -> Tokens:
        if changed or self.every_block:
            self.snapshots.append(Snapshot(block.layer, tokens))
        return tokens


class OutputCollector(Listener):
    """Puts the tokens that leave the last block into a list, in place of those of the forward before."""

    collects = True

    def __init__(self, outputs: list[Tokens], *, traced: bool = False):
        self.outputs, self.traced = outputs, traced

    def finish(self, tokens: Tokens) -> None:
        self.outputs[:] = [tokens._replace(run=None)]


# A stack is identified by its spec object: a copy has its own, a replica on another device shares it.
_LISTENING: ContextVar[tuple[tuple[ViTSpec, Listener], ...]] = ContextVar("vitrim_listening", default=())


def listeners_of(spec: ViTSpec) -> tuple[Listener, ...]:
    """The listeners, in this thread, of the stack with this spec object."""
    listening = _LISTENING.get()
    return tuple(listener for of, listener in listening if of is spec) if listening else ()


def start(spec: ViTSpec, listener: Listener) -> None:
    """Add a listener, from the next forward on."""
    _LISTENING.set((*_LISTENING.get(), (spec, listener)))


def stop(spec: ViTSpec, what: type[Listener] | Listener) -> None:
    """Remove a listener, or all of a kind."""
    _LISTENING.set(
        tuple(
            pair
            for pair in _LISTENING.get()
            if pair[0] is not spec or not (pair[1] is what or (isinstance(what, type) and isinstance(pair[1], what)))
        )
    )


@contextmanager
def listening(spec: ViTSpec, listener: Listener) -> Iterator[None]:
    """Listen while the with block runs. ValueError if the listener is exclusive and another exclusive one is there."""
    if listener.exclusive and any(other.exclusive for other in listeners_of(spec)):
        raise ValueError("this model is already being traced: leave that `with` block first.")
    start(spec, listener)
    try:
        yield
    finally:
        stop(spec, listener)
