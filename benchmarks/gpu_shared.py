"""What the experiments on a GPU share: the methods, and rows for what could not be measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cache
from typing import Any

import timm
import torch
from torch import nn

import vitrim
from vitrim.measure.macs import count_macs
from vitrim.text import shown

from .experiment import Cell, machine

OFFICIAL_TOME = "official tome"
TARGET = 1.5  # multiply-adds of the unreduced model divided by those of each method


def static_methods() -> list[str]:
    """Registered methods that keep as many tokens in every image."""
    return [name for name in vitrim.list_methods() if not vitrim.create_method(name).varies]


def place(cell: Cell) -> dict[str, object]:
    """Identify the machine and the device."""
    return machine(cell) | {"device_name": torch.cuda.get_device_name() if cell.device == "cuda" else cell.device}


def at_target(model: nn.Module, name: str, input_size: tuple[int, int, int]) -> vitrim.Method:
    """The method at the target. At its default amount if a formula cannot solve for it, or cannot reach the target."""
    with suppress(ValueError):
        gmacs = full_macs(model, input_size) / TARGET / 1e9
        return vitrim.method_for_macs(model, name, gmacs, input_size=input_size)
    return vitrim.create_method(name)


_MACS: dict[tuple[int, tuple[int, int, int]], int] = {}


def full_macs(model: nn.Module, input_size: tuple[int, int, int]) -> int:
    """Count the multiply-adds of the unreduced model, once."""
    key = (id(model), input_size)
    if key not in _MACS:
        _MACS[key] = count_macs(model, input_size)
    return _MACS[key]


@cache
def base_model(name: str, img_size: int) -> nn.Module:
    """Make a timm model with random weights, on the CPU. The last ones are kept."""
    torch.manual_seed(0)
    model: nn.Module = timm.create_model(name, img_size=img_size).eval()
    return model


def told(error: Exception) -> str:
    """An error as the text of a cell."""
    if isinstance(error, torch.OutOfMemoryError):
        return "out of memory"
    return shown(f"{type(error).__name__}: {error}", 200)


def tried(columns: Mapping[str, str], rows: Iterator[dict[str, object]]) -> Iterator[dict[str, object]]:
    """Yield the rows, or one that says in its column "skipped" why there are none. An error ends one cell alone."""
    try:
        found: list[dict[str, Any]] = list(rows)
    except Exception as error:  # another method, dtype or mode may work
        found = [{"skipped": told(error)}]
    for row in found:
        yield {**columns, "skipped": "", **row}
