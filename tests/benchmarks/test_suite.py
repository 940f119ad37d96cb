"""The benchmark suite measures a cell once, and reports what it skipped."""

from __future__ import annotations

import csv
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import suite
from benchmarks.experiment import run
from vitrim.measure.benchmark import Timing
from vitrim.measure.turns import Spread

SMALL = ["--model", "test_vit", "--img-size", "160", "--threads", "1", "--rounds", "3", "--min-rounds", "2"]


def rows_of(folder: Path) -> list[dict[str, str]]:
    (path,) = folder.glob("suite_cpu1_*.csv")
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def measure(monkeypatch: pytest.MonkeyPatch, folder: Path, *options: str) -> list[dict[str, str]]:
    monkeypatch.setattr(suite, "RATES", {("test_vit", "fp32"): 1e10})
    assert run(suite.EXPERIMENT, [*SMALL, "--results", str(folder), *options]) == 0
    return rows_of(folder)


def test_a_cell_is_measured_once_and_told_in_full(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    rows = measure(monkeypatch, tmp_path, "--batch", "2", "--method", "EViT 0.7, no fusion", "BAT 0.7")
    evit, bat = rows
    assert evit["skipped"] == bat["skipped"] == ""
    assert all(float(evit[name]) > 0 for name in (*suite.COUNTS, *suite.OVER, *suite.MEMORY, "matrix_speedup"))
    assert float(evit["mac_ratio"]) > 1.2
    assert float(evit["difference"]) < 1e-5
    assert evit["rounds"] == "3"
    assert float(bat["speedup"]) > 0
    assert bat["over_matrix"] == bat["difference"] == ""  # nobody published how BAT's authors run it
    again = measure(monkeypatch, tmp_path, "--batch", "2", "--method", "EViT 0.7, no fusion", "BAT 0.7")
    assert again == rows


def test_what_takes_too_long_is_told_and_measured_when_more_is_allowed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    only = ("--batch", "2", "--method", "EViT 0.7")
    (row,) = measure(monkeypatch, tmp_path, *only, "--cell-minutes", "0.00001")
    assert "minutes for 2 rounds, of 1e-05 allowed" in row["skipped"]
    assert row["speedup"] == ""
    *_, large = measure(monkeypatch, tmp_path, *only, "--memory-gib", "0.0001")
    assert "GiB for logits and softmax, of 0.0001 allowed" in large["skipped"]
    assert float(large["speedup"]) > 0
    assert large["over_matrix"] == ""
    *_, full = measure(monkeypatch, tmp_path, *only)
    assert full["skipped"] == ""
    assert float(full["over_matrix"]) > 0
    assert len(rows_of(tmp_path)) == 3


def test_unequal_outputs_are_not_compared(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(suite, "EQUAL", -1.0)
    (row,) = measure(monkeypatch, tmp_path, "--batch", "1", "--method", "EViT 0.7")
    assert row["skipped"].startswith("outputs of the reference mode differ by")
    assert row["speedup"] == ""


def test_speed_over_another_is_taken_round_by_round() -> None:
    slow = Timing(1, 1, Spread(1, 1, 1), 3, 30.0, (2.0, 30.0, 4.0))
    fast = Timing(1, 1, Spread(2, 2, 2), 3, 10.0, (1.0, 10.0, 2.0))
    over = fast.speed_over(slow)
    assert (over.low, over.median, over.high) == pytest.approx((2.0, 2.0, 2.8))
    values = suite.ratios({"unreduced": slow, "vitrim": fast, "matrix": slow}, 1.6)
    assert values["over_matrix"] == "2.000"
    assert values["memory_of_matrix"] == "0.333"
    assert values["speedup_per_mac_ratio"] == "1.250"
    assert "over_masks" not in values


def test_a_row_that_was_left_out_for_less_than_is_allowed_now_settles_nothing() -> None:
    cell = SimpleNamespace(cell_minutes=3.0, memory_gib=8.0)
    row = {"skipped": "", "cell_minutes": "3.0", "memory_gib": "8"}
    assert suite.settles(row, cell)
    assert suite.settles(row | {"skipped": "late"}, cell)
    assert not suite.settles(row | {"skipped": "late", "cell_minutes": "1.0"}, cell)
