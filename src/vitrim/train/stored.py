"""What a run reads back from its own folder, checked: kinds and ranges of state.json and of the lines of metrics.jsonl.

A folder may come from another machine, or have been edited. ValueErrors say what is wrong.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..text import shown

LARGEST = 2**53  # of counts
WORDS = r"[\w .-]{1,60}"  # what curves are called
Test = Callable[[Any], bool]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < math.inf


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= LARGEST


def _is_at_least_0(value: Any) -> bool:
    return _is_number(value) and value >= 0


def _is_per_cent(value: Any) -> bool:
    return _is_number(value) and 0 <= value <= 100


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_plain(value: object) -> bool:
    return isinstance(value, str | bool | int | float)


def _named(fits: Test, names: str = ".*") -> Test:
    """Values by name; names: a pattern of what they may be."""
    known = re.compile(names, re.DOTALL)
    return lambda value: isinstance(value, dict) and all(known.fullmatch(k) and fits(each) for k, each in value.items())


def _or_none(fits: Test) -> Test:
    return lambda value: value is None or fits(value)


def _is_rate(value: Any) -> bool:
    rates = value if isinstance(value, list | tuple) else [value]
    return all(_is_number(each) and 0 < each <= 1 for each in rates)


def _is_optimizer(value: Any) -> bool:
    if not isinstance(value, dict) or value.keys() != {"values", "groups"} or not isinstance(value["groups"], list):
        return False
    return all(map(_named(_is_plain), (value["values"], *value["groups"])))


STATE: Mapping[str, Test] = {
    "step": _is_count,
    "seconds": _is_at_least_0,
    "unreadable": _named(_is_text),
    "accuracy": _named(_is_per_cent, WORDS),
    "optimizer": _is_optimizer,
    "scaler": _or_none(_named(_is_plain)),
}
ENTRY: Mapping[str, Test] = {
    "step": _is_count,
    "num_steps": _is_count,
    "epoch": _is_at_least_0,
    "loss": _is_number,
    "parts": _named(_is_number, WORDS),
    "lr": _is_at_least_0,
    "keep_rate": _or_none(_is_rate),
    "images_per_s": _is_at_least_0,
    "seconds_left": _is_at_least_0,
    "accuracy": _named(_is_per_cent, WORDS),
}


def check_state(state: object, step: int, num_steps: int) -> None:
    """ValueError unless it is the state of a checkpoint of that step, of a run of so many."""
    _check("its state", state, STATE)
    assert isinstance(state, dict)
    if state["step"] != step or step > num_steps:
        raise ValueError(f"it says that it is of update {state['step']}, of a run of {num_steps}")


def read_entries(path: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl; of the last one, a part that a kill left is left out."""
    found: list[dict[str, Any]] = []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    for i, line in enumerate(lines):
        try:
            entry = json.loads(line)
            _check("the line", entry, ENTRY)
        except (ValueError, RecursionError) as error:
            if isinstance(error, json.JSONDecodeError) and i == len(lines) - 1:
                break
            raise ValueError(
                f"{path}, line {i + 1}, is not as vitrim writes it ({shown(error)}): remove the line, or name another "
                "output folder."
            ) from error
        found.append(entry)
    return found


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object; ValueError for a file of anything else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(content, dict):
        raise ValueError("it is no object")
    return content


def _check(what: str, content: object, kinds: Mapping[str, Test]) -> None:
    if not isinstance(content, dict):
        raise ValueError(f"{what} is no object")
    for name, fits in kinds.items():
        if name not in content:
            raise ValueError(f"{what} has no {name}")
        if not fits(content[name]):
            raise ValueError(f"{what} has a {name} that cannot be {shown(content[name], 60)}")
