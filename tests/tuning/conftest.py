"""Searches among few methods, so that tests take little time."""

from __future__ import annotations

import pytest

from vitrim.tuning import bench
from vitrim.tuning.families import families

FEW = ("ward", "tome", "evit, drop, cls")


@pytest.fixture(autouse=True)
def few_families(monkeypatch: pytest.MonkeyPatch) -> None:
    """`vitrim.tune` chooses among these alone."""
    few = lambda spec: tuple(each for each in families(spec) if each.name in FEW)  # noqa: E731
    monkeypatch.setattr(bench, "families", few)
