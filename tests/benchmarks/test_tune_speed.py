"""The count of candidates a minute: what a row says."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.experiment import Cell
from benchmarks.tune_speed import measure
from vitrim.models.embedded import demo_images
from vitrim.tuning.families import families


def test_a_search_and_evaluations_are_counted_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.tune_speed.families", lambda spec: families(spec)[:1])
    settings = {"model": "vitrim_fashion_tiny", "checkpoint": "", "data": str(demo_images(tmp_path / "fashion"))}
    counts = {"images": 16, "ratio": 1.3, "tries": 2, "turns": 1, "each": 3, "seed": 0}
    tuned, evaluated = measure(Cell(**settings, **counts))
    assert (tuned["by"], evaluated["by"], evaluated["over_evaluate"]) == ("tune", "evaluate", "1.00")
    assert tuned["candidates"] > evaluated["candidates"] >= 2  # type: ignore[operator]
    assert float(str(tuned["images_each"])) < float(str(evaluated["images_each"])) == 16
    assert 0 < tuned["whole"] < tuned["candidates"]  # type: ignore[operator]
