"""Who follows the forwards of a stack: traces, features, losses, exits.

Nothing of this lies on the model. Who listens is kept in a context variable, so a thread hears its own forwards
alone, and a copy of a model has no listeners. What belongs to one forward, a `Follower`, is made at the first block
and travels with the tokens.
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
        """The tokens that go on. changed: whether this block moved patches to other tokens."""
        return tokens

    def finish(self, tokens: Tokens) -> None:
        """Called once, with what left the last block."""


class Listener(Follower):
    """Follows every forward of one stack; by itself, unless it makes a follower for each."""

    traced = False  # whether tokens are to know where every patch is
    collects = False  # whether methods collect tensors for their losses (`Tokens.aux`)
    exclusive = False  # whether there may be only one of its kind

    def begin(self, x_BNC: Tensor) -> Follower:
        """Who follows the forward that starts with these features."""
        return self


class Snapshot(NamedTuple):
    """Where the patches live after one block."""

    layer: int
    tokens: Tokens


class Recorder(Listener):
    """Appends a snapshot after every block, or every one that moves patches."""

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


# A stack is known by its spec: its copies have one of their own, its replicas on other devices have the same.
_LISTENING: ContextVar[tuple[tuple[ViTSpec, Listener], ...]] = ContextVar("vitrim_listening", default=())


def listeners_of(spec: ViTSpec) -> tuple[Listener, ...]:
    """Who listens, in this thread, to the stack with this very spec."""
    listening = _LISTENING.get()
    return tuple(listener for of, listener in listening if of is spec) if listening else ()


def start(spec: ViTSpec, listener: Listener) -> None:
    """From the next forward on."""
    _LISTENING.set((*_LISTENING.get(), (spec, listener)))


def stop(spec: ViTSpec, what: type[Listener] | Listener) -> None:
    """This listener, or all of a kind, hears no further forward."""
    _LISTENING.set(
        tuple(
            pair
            for pair in _LISTENING.get()
            if pair[0] is not spec or not (pair[1] is what or (isinstance(what, type) and isinstance(pair[1], what)))
        )
    )


@contextmanager
def listening(spec: ViTSpec, listener: Listener) -> Iterator[None]:
    """For as long as the with block runs. ValueError if there is another one and there may be only one."""
    if listener.exclusive and any(other.exclusive for other in listeners_of(spec)):
        raise ValueError("this model is being traced already: leave that `with` block first.")
    start(spec, listener)
    try:
        yield
    finally:
        stop(spec, listener)
