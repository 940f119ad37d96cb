"""Checks of the kind of a value, in arguments and in JSON files from others."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeGuard

from .text import shown

Test = Callable[[Any], bool]
MOST_BYTES = 64 * 2**20  # of a JSON file


def is_whole(value: object, least: float = -math.inf, most: float = math.inf) -> TypeGuard[int]:
    """Whether it is a whole number in that range. True and False are not."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def is_number(value: object, most: float = sys.float_info.max) -> TypeGuard[int | float]:
    """Whether it is a finite number of at most that size. True and False are not."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= most


def is_per_cent(value: object) -> bool:
    """Whether it is a number from 0 to 100."""
    return is_number(value) and 0 <= value <= 100


def is_text(value: object) -> TypeGuard[str]:
    """Whether it is a string."""
    return isinstance(value, str)


def list_of(fits: Test) -> Test:
    """A test for lists whose entries fit."""
    return lambda value: isinstance(value, list | tuple) and all(map(fits, value))


def named(fits: Test, names: str = ".*") -> Test:
    """A test for objects whose values fit. names: a pattern for the keys."""
    known = re.compile(names, re.DOTALL)
    return lambda value: isinstance(value, dict) and all(known.fullmatch(k) and fits(each) for k, each in value.items())


def or_none(fits: Test) -> Test:
    """A test for None or a value that fits."""
    return lambda value: value is None or fits(value)


def check(what: str, content: object, kinds: Mapping[str, Test], *, only: bool = False) -> None:
    """ValueError unless the content of a JSON file is an object with entries of these kinds.

    only: whether other entries are refused.
    """
    if not isinstance(content, dict):
        raise ValueError(f"{what} is not an object")
    missing, more = kinds.keys() - content, content.keys() - kinds
    if missing or (only and more):
        raise ValueError(f"{what} does not hold {', '.join(kinds)}")
    for name, fits in kinds.items():
        if not fits(content[name]):
            raise ValueError(f"in {what}, {name} cannot be {shown(content[name], 60)}")


def read_json(path: Path) -> Any:
    """Read a JSON file. ValueError for anything else, and for a pipe or a device, which may never end."""
    if path.exists() and (not path.is_file() or path.stat().st_size > MOST_BYTES):
        raise ValueError(f"not a file of at most {MOST_BYTES} bytes")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def read_object(path: Path) -> dict[str, Any]:
    """Read the object in a JSON file. ValueError for anything else."""
    content = read_json(path)
    if not isinstance(content, dict):
        raise ValueError("it is not an object")
    return content
