"""Import scripts of benchmarks/, whose `rows` must not take the place of the tests' own."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

BENCHMARKS = str(Path(__file__).resolve().parents[1] / "benchmarks")


def load(name: str) -> Any:
    """The module of that name in benchmarks/."""
    own = sys.modules.pop("rows", None)
    sys.path.insert(0, BENCHMARKS)
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(BENCHMARKS)
        sys.modules.pop("rows", None)
        if own is not None:
            sys.modules["rows"] = own
