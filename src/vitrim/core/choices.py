"""Check settings against their `Literal` types."""

from __future__ import annotations

from typing import Any, get_args


def check_choice(value: object, kind: Any, what: str) -> None:
    """ValueError if the `Literal` type does not list the value. what: begins the error, such as 'evit: scorer'."""
    choices = get_args(kind)
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{what} must be one of {', '.join(choices)}, not {value!r}.")
