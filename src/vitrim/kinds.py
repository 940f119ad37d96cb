"""Of which kind an argument is."""

from __future__ import annotations

from typing import TypeGuard


def is_whole(value: object, least: int) -> TypeGuard[int]:
    """Whether it is a whole number of at least so much; True and False are none."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
