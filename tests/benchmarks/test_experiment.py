"""The runner of experiments appends rows, measures nothing twice, and distinguishes failures from refusals."""

from __future__ import annotations

import csv
import importlib
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch

from benchmarks import export, export_stability, packed, speed, training_speed
from benchmarks.__main__ import EXPERIMENTS
from benchmarks.experiment import Cell, Experiment, run
from benchmarks.rows import append, read
from benchmarks.tables import DOCUMENTS
from benchmarks.tables.table import List
from vitrim.measure.turns import Spread

TABLES = {name: table for tables in DOCUMENTS.values() for name, table in tables.items()}


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """As many as before, whatever an experiment was run with."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


class Counts:
    """Measures by writing down what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, int]] = []

    def __call__(self, cell: Cell) -> Iterator[dict[str, object]]:
        self.asked.append((cell.color, cell.size))
        for shape in cell.shape:
            holds = "no" if (cell.color, shape) == ("red", "round") else "refused" if cell.size == 3 else "yes"
            yield {"shape": shape, "speedup": Spread(0.9, 1.0, 1.1), "rounds": cell.rounds, "holds": holds}


def experiment(measure: Counts) -> Experiment:
    return Experiment(
        about="Colours.",
        file="colors_{on}",
        axes={"color": ("red", "blue"), "size": (1, 2)},
        together={"shape": ("round", "flat")},
        options={"rounds": 5},
        choices={"color": ("red", "blue", "gray")},
        place=lambda cell: {"threads": cell.threads},
        holds=lambda row: row["holds"] != "no",
        measure=measure,
    )


def rows_in(folder: Path) -> list[dict[str, str]]:
    (path,) = folder.glob("colors_cpu1_torch*.csv")
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_cell_is_measured_once_and_its_rows_say_which_it_is(tmp_path: Path) -> None:
    measure = Counts()
    options = ["--results", str(tmp_path), "--threads", "1", "--color", "blue"]
    assert run(experiment(measure), options) == 0
    assert measure.asked == [("blue", 1), ("blue", 2)]
    first = rows_in(tmp_path)[0]
    assert first == {
        "color": "blue",
        "size": "1",
        "shape": "round",
        "speedup": "1.000",
        "speedup_p10": "0.900",
        "speedup_p90": "1.100",
        "rounds": "5",
        "holds": "yes",
        "threads": "1",
    }


def test_what_has_its_rows_is_left_out_and_told_unless_it_is_wanted_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    measure = Counts()
    options = ["--results", str(tmp_path), "--threads", "1", "--color", "blue"]
    run(experiment(measure), [*options, "--shape", "round"])
    run(experiment(measure), [*options, "--shape", "round", "--size", "1", "2", "3"])
    assert measure.asked == [("blue", 1), ("blue", 2), ("blue", 3)]
    assert re.search(r"blue  2  .*\n2 of 3 ", capsys.readouterr().out)
    run(experiment(measure), [*options, "--size", "1"])  # a shape that no row is of
    assert measure.asked[3:] == [("blue", 1)]
    run(experiment(measure), [*options, "--size", "1", "--again"])
    run(experiment(measure), [*options[:2], "--threads", "2", "--color", "blue", "--size", "1"])  # another place
    assert measure.asked[4:] == [("blue", 1), ("blue", 1)]


def test_a_row_that_does_not_hold_is_a_failure_and_a_refusal_is_none(tmp_path: Path) -> None:
    options = ["--results", str(tmp_path), "--threads", "1"]
    assert run(experiment(Counts()), [*options, "--color", "blue", "--size", "3"]) == 0
    assert run(experiment(Counts()), [*options, "--color", "red", "--size", "1"]) == 1
    assert [row["holds"] for row in rows_in(tmp_path)] == ["refused", "refused", "no", "yes"]


def test_a_value_that_is_no_choice_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run(experiment(Counts()), ["--results", str(tmp_path), "--color", "green"])
    assert "'gray'" in capsys.readouterr().err


def test_rows_with_other_columns_are_not_appended(tmp_path: Path) -> None:
    path = append("colors", [{"a": 1, "b": 2}], tmp_path)
    append("colors", [{"b": 4, "a": 3}], tmp_path)
    assert read(path) == [{"a": "1", "b": "2"}, {"a": "3", "b": "4"}]
    with pytest.raises(ValueError, match="columns"):
        append("colors", [{"a": 1}], tmp_path)


@pytest.mark.parametrize(
    ("module", "options"),
    [
        (speed, ["--img-size", "160", "--method", "EViT 0.5"]),
        (training_speed, ["--img-size", "160", "--method", "EViT 0.5"]),
        (packed, ["--fewest", "3", "--most", "9"]),
    ],
)
def test_experiments_write_the_columns_of_their_tables(
    module: ModuleType, options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = module.__name__.rpartition(".")[2]
    small = ["--model", "test_vit", "--batch", "2", "--threads", "1", "--rounds", "2", "--results", str(tmp_path)]
    assert run(module.EXPERIMENT, [*small, *options]) == 0
    monkeypatch.setattr("benchmarks.rows.RESULTS", tmp_path)
    table = TABLES[name]
    assert isinstance(table, List)
    text = table.text()
    (line,) = (line for line in text.splitlines() if "**" in line)
    assert len(line.split("|")) == len(table.columns) + 2
    assert f"{name}_cpu1" in text


def test_a_refusal_stands_for_all_rows_of_its_cell(tmp_path: Path) -> None:
    measure = Counts()

    def refuse(cell: Cell) -> list[dict[str, str]]:
        list(measure(cell))
        return [{"shape": "", "holds": "refused"}]

    refuses = replace(experiment(measure), measure=refuse)
    for _ in range(2):
        run(refuses, ["--results", str(tmp_path), "--threads", "1", "--color", "blue", "--size", "1"])
    assert measure.asked == [("blue", 1)]


def test_artefacts_are_tried_run_again_and_again_and_refusals_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = ["--results", str(tmp_path), "--route", "torch-export"]
    monkeypatch.setattr("benchmarks.rows.RESULTS", tmp_path)
    monkeypatch.setattr(export_stability, "model_with", lambda _, method: export.reduced(export.tiny(), method))
    monkeypatch.setattr(export_stability, "some_images", lambda _, count: torch.randn(count, 3, 32, 32))
    few = [*place, "--method", "unreduced", "attention_mass"]
    assert run(export.EXPERIMENT, few) == 0
    once = ["--model", "tiny", "--threads", "1", "--batch", "1", "2", "--runs", "2"]
    assert run(export_stability.EXPERIMENT, [*few, *once]) == 0
    assert run(export_stability.EXPERIMENT, [*few, *once]) == 0  # from the rows that are there
    (path,) = tmp_path.glob("export_stability_torch*.csv")
    rows = read(path)
    assert [row["holds"] for row in rows] == ["yes", "yes", "refused"]
    assert [row["batch"] for row in rows] == ["1", "2", ""]
    assert "each image" in rows[2]["refused"]
    text = TABLES["export"].text()
    assert "| attention_mass | no (1) |" in text
    assert "| unreduced | 0.0e+00 |" in text


def test_every_experiment_is_listed_and_says_what_it_is() -> None:
    for name in EXPERIMENTS:
        found = importlib.import_module(f"benchmarks.{name}").EXPERIMENT
        assert isinstance(found, Experiment)
        assert found.about.strip()
