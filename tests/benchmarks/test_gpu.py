"""The experiments on a GPU run on a CPU too, and what cannot be measured takes a row, not the run."""

from __future__ import annotations

import csv
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks import gpu, gpu_kernels, gpu_speed
from benchmarks.experiment import run
from benchmarks.gpu_numbers import companions


def rows_of(folder: Path, what: str) -> list[dict[str, str]]:
    (path,) = folder.glob(f"{what}_cpu*.csv")
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_one_command_writes_numbers_speed_and_kernels(tmp_path: Path) -> None:
    assert gpu.main(["--device", "cpu", "--small", "--results", str(tmp_path)]) == 0
    numbers = {(row["dtype"], row["method"]): row for row in rows_of(tmp_path, "gpu_numbers")}
    assert numbers["fp32", "tome"]["difference"] == "0.0e+00"
    assert numbers["fp32", "tome"]["other_tokens"] == "0"
    assert float(numbers["bf16", "unreduced"]["difference"]) > 0
    speeds = {row["method"]: row for row in rows_of(tmp_path, "gpu_speed")}
    assert float(speeds["evit"]["mac_ratio"]) == pytest.approx(1.5, abs=0.05)
    assert float(speeds["evit"]["time_of_floor"]) > 0
    missing = speeds[gpu_speed.OFFICIAL_TOME]
    assert missing["speedup"] == "" and "tome" in missing["skipped"]
    kernels = rows_of(tmp_path, "gpu_kernels")
    assert {row["of"] for row in kernels} == {"unreduced", "floor", kernels[0]["method"]}
    shares = [float(row["share"]) for row in kernels if row["of"] == "floor"]
    assert shares == sorted(shares, reverse=True) and 0.5 < sum(shares) <= 1.01


def test_no_cell_is_begun_after_the_minutes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cells = ["--device", "cpu", "--dtype", "fp32", "--method", "unreduced", "evit", "--images", "2"]
    experiment = gpu.gpu_numbers.EXPERIMENT
    assert run(experiment, [*cells, "--results", str(tmp_path), "--minutes", "0.00001"]) == 0
    assert "1 cells are left" in capsys.readouterr().out
    assert run(experiment, [*cells, "--results", str(tmp_path)]) == 0
    assert [row["method"] for row in rows_of(tmp_path, "gpu_numbers")] == ["unreduced", "evit"]


def test_the_most_wanted_cells_come_first() -> None:
    cell = {"model": "vit_base_patch16_224", "img_size": 224, "batch": 256, "dtype": "bf16", "mode": "eager"}
    wanted = SimpleNamespace(**cell, method="tome")
    later = [SimpleNamespace(**cell | {"img_size": 518}, method="tome"), SimpleNamespace(**cell, method="gtp")]
    assert all(gpu_speed.order(wanted) < gpu_speed.order(each) for each in later)


def test_the_order_of_tokens_does_not_make_them_others() -> None:
    source_BP = torch.tensor([[1, 2, 1, -1], [2, 1, 2, -1], [1, 2, 2, -1]])
    first, second, third = companions(source_BP)
    assert torch.equal(first, second)
    assert not torch.equal(first, third)


def test_the_worst_cell_is_the_one_with_the_lowest_speed_for_its_multiply_adds(tmp_path: Path) -> None:
    assert gpu_kernels.worst_cell(tmp_path, "cpu") is None
    names = ("model", "img_size", "batch", "dtype", "mode", "method", "speedup_per_mac_ratio")
    rows = [
        ("a", 224, 256, "bf16", "eager", "evit", "0.9"),
        ("a", 224, 256, "bf16", "eager", "tome", "0.7"),
        ("a", 224, 1, "bf16", "eager", "tome", "0.2"),
        ("a", 224, 256, "bf16", "default", "tome", "0.3"),
        ("a", 224, 256, "bf16", "eager", "atc", ""),
    ]
    path = tmp_path / f"gpu_speed_cpu{torch.get_num_threads()}_torch2.0_2026-01-01.csv"
    path.write_text("\n".join([",".join(names), *(",".join(map(str, row)) for row in rows)]))
    worst = gpu_kernels.worst_cell(tmp_path, "cpu")
    assert worst is not None and worst["method"] == "tome" and worst["batch"] == "256"
