"""Methods and their settings as text: "evit fuse=false; token_mergence similarity=l1,l2; tome r=8,13".

Semicolons separate methods; commas may separate names without settings. Commas between values make a grid: every
combination is one configuration. Lists are written in brackets: "evit keep_rate=[0.9,0.8,0.7] layers=[3,6,9]".
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple

from ..methods import create_method, settings_of
from ..text import shown

WORDS = {"true": True, "false": False, "none": None}
BRACKETS = {"(": ")", "[": "]"}
MOST_NESTED = 4  # lists in lists


class Choice(NamedTuple):
    """A method's name and settings."""

    method: str
    settings: Mapping[str, Any] = {}


def read_methods(text: str) -> list[Choice]:
    """Read methods from text, and expand grids. Raises ValueError with the wrong part."""
    found = [choice for entry in text.split(";") if entry.strip() for choice in _entry(entry.strip())]
    if not found:
        raise ValueError("--methods is empty: name at least one method (see `vitrim methods`).")
    return found


def _entry(text: str) -> Iterator[Choice]:
    if "=" not in text:
        for name in (part.strip() for part in text.split(",")):
            if name:
                _check_name(name)
                yield Choice(name)
        return
    name, *assignments = _split(text, r"\s")
    if name.endswith(","):
        raise ValueError(f"between methods of which one has settings stands a semicolon: {name[:-1]}; ...")
    _check_name(name)
    known = settings_of(name)
    grid: dict[str, list[Any]] = {}
    for assignment in assignments:
        key, equals, values = assignment.partition("=")
        if not equals or not values:
            raise ValueError(f"{name}: write settings as name=value, not as {shown(assignment)}.")
        if key not in known:
            raise ValueError(f"{name} has no setting {shown(key)}; it has {', '.join(known)}.")
        if key in grid:
            raise ValueError(f"{name}: {key} is set twice.")
        grid[key] = [_value(part) for part in _split(values, ",")]
    for combination in product(*grid.values()):
        yield Choice(name, dict(zip(grid, combination, strict=True)))


def _check_name(name: str) -> None:
    """Raise ValueError for an unknown method."""
    create_method(name)


def _split(text: str, at: str) -> list[str]:
    """Split at separators outside brackets, and leave out empty parts."""
    parts, closing = [""], list[str]()
    for character in text:
        if not closing and re.fullmatch(at, character):
            parts.append("")
            continue
        if character in BRACKETS:
            closing.append(BRACKETS[character])
        elif closing and character == closing[-1]:
            closing.pop()
        parts[-1] += character
    if closing:
        raise ValueError(f"{shown(text)} has no closing {closing[-1]}.")
    return [part for part in parts if part]


def _value(text: str, depth: int = 0) -> Any:
    """Read a number, true, false, none, or a list of these. Any other text is a word."""
    if depth > MOST_NESTED:
        raise ValueError(f"a setting is a number, a word or a list of these, not lists in lists: {shown(text, 40)}.")
    if text.lower() in WORDS:
        return WORDS[text.lower()]
    if text[0] in BRACKETS:
        values = [_value(part.strip(), depth + 1) for part in _split(text[1:-1], ",")]
        return tuple(values) if text[0] == "(" else values
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
    return value if isinstance(value, (int, float)) else text


def written(settings: Mapping[str, Any] | Sequence[tuple[str, Any]]) -> str:
    """Write settings in words: 'layers 2 4 6, fuse false'."""
    return ", ".join(f"{name} {_words(value)}" for name, value in dict(settings).items())


def assigned(settings: Mapping[str, Any]) -> str:
    """Write settings as they are read: 'layers=[2,4,6] fuse=false'."""
    return " ".join(f"{name}={_assigned(value)}" for name, value in settings.items())


def _assigned(value: object) -> str:
    if isinstance(value, tuple | list):
        return f"[{','.join(map(_assigned, value))}]"
    if isinstance(value, Mapping):  # such as the exits of a method, which no command line sets
        return f"({' '.join(f'{name}:{_assigned(each)}' for name, each in value.items())})"
    return _words(value)


def _words(value: object) -> str:
    if isinstance(value, (tuple, list)):
        return " ".join(map(_words, value))
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)
