"""Rows for tests of what is done with them; their numbers are made up."""

from __future__ import annotations

from typing import Any

from vitrim.compare.row import Row
from vitrim.measure.turns import Spread


def make_row(method: str, setting: str = "", **numbers: Any) -> Row:
    """A row with some of its numbers given."""
    defaults: dict[str, Any] = {
        "settings": {},
        "top1": 80.0,
        "top5": 95.0,
        "drop": 0.0,
        "gmacs": 1.0,
        "mac_ratio": 1.0,
        "images_per_s": 50.0,
        "speedup": 1.0,
        "latency_1_ms": 20.0,
        "speedup_1": 1.0,
        "peak_memory_mb": 90.0,
        "tokens": [197] * 12,
        "num_images": 400,
        "skipped": 0,
        "batch": 32,
        "rounds": 10,
        "dtype": "fp32",
        "device": "cpu",
        "versions": "vitrim 0",
        "seed": 0,
    }
    values = defaults | numbers
    spreads = {name: Spread(values[name] - 0.1, values[name], values[name] + 0.1) for name in ("speedup", "speedup_1")}
    return Row(method, setting, **values | spreads)
