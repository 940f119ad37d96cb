"""Settings that are one of a few words: the words stand in a `Literal` type, and here is the check against it."""

from __future__ import annotations

from typing import Any, get_args


def check_choice(value: object, kind: Any, what: str) -> None:
    """ValueError for a value that the type, a `Literal`, does not list. what: begins the error, 'evit: scorer'."""
    choices = get_args(kind)
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{what} must be one of {', '.join(choices)}, not {value!r}.")
