"""Check the types and ranges of what a run reads from its folder: state.json and the lines of metrics.jsonl.

A folder may come from another machine, or have been edited. A ValueError names the value that is wrong.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from ..kinds import Test, check, is_number, is_per_cent, is_text, is_whole, named, or_none
from ..text import shown

LARGEST = 2**53  # of counts
WORDS = r"[\w .-]{1,60}"  # names of curves

_is_count: Test = partial(is_whole, least=0, most=LARGEST)


def _is_at_least_0(value: object) -> bool:
    return is_number(value) and value >= 0


def _is_plain(value: object) -> bool:
    return isinstance(value, str | bool | int | float)


def _is_rate(value: Any) -> bool:
    rates = value if isinstance(value, list | tuple) else [value]
    return all(is_number(each) and 0 < each <= 1 for each in rates)


def _is_optimizer(value: Any) -> bool:
    if not isinstance(value, dict) or value.keys() != {"values", "groups"} or not isinstance(value["groups"], list):
        return False
    return all(map(named(_is_plain), (value["values"], *value["groups"])))


STATE: Mapping[str, Test] = {
    "step": _is_count,
    "seconds": _is_at_least_0,
    "unreadable": named(is_text),
    "accuracy": named(is_per_cent, WORDS),
    "optimizer": _is_optimizer,
    "scaler": or_none(named(_is_plain)),
}
ENTRY: Mapping[str, Test] = {
    "step": _is_count,
    "num_steps": _is_count,
    "epoch": _is_at_least_0,
    "loss": is_number,
    "parts": named(is_number, WORDS),
    "lr": _is_at_least_0,
    "keep_rate": or_none(_is_rate),
    "images_per_s": _is_at_least_0,
    "seconds_left": _is_at_least_0,
    "accuracy": named(is_per_cent, WORDS),
}


def check_state(state: object, step: int, num_steps: int) -> None:
    """Raise ValueError unless this is the state of a checkpoint of that step."""
    check("its state", state, STATE)
    assert isinstance(state, dict)
    if state["step"] != step or step > num_steps:
        raise ValueError(f"its state is of update {state['step']}, and the run has {num_steps}")


def read_entries(path: Path) -> list[dict[str, Any]]:
    """Read the lines of metrics.jsonl. An incomplete last line, as after a kill, is skipped."""
    found: list[dict[str, Any]] = []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    for i, line in enumerate(lines):
        try:
            entry = json.loads(line)
            check("the line", entry, ENTRY)
        except (ValueError, RecursionError) as error:
            if isinstance(error, json.JSONDecodeError) and i == len(lines) - 1:
                break
            raise ValueError(
                f"{path}, line {i + 1}, was not written by vitrim ({shown(error)}): remove the line, or name another "
                "output folder."
            ) from error
        found.append(entry)
    return found
