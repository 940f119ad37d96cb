"""The tokens that leave the blocks of a reduced model. Hooks see features alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from vitrim.core.listening import Listener, listening
from vitrim.core.tokens import Tokens


class Looker(Listener):
    """Keeps them, and asks for nothing that would not be computed without it."""

    def __init__(self) -> None:
        self.seen: list[Tokens] = []

    def after_block(self, block: Any, tokens: Tokens, changed: bool) -> Tokens:
        self.seen.append(tokens)
        return tokens


@contextmanager
def leaving_blocks(stack: Any) -> Iterator[list[Tokens]]:
    """One entry for each block and forward, from here on; the last block's before it turns them into features."""
    looker = Looker()
    with listening(stack.spec, looker):
        yield looker.seen
