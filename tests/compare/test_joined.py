"""Several runs become one report if they measured the same model on the same images."""

from __future__ import annotations

import csv
import io
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from rows import make_row
from vitrim.cli import app
from vitrim.compare.joined import read_runs
from vitrim.compare.predictions import Predictions
from vitrim.compare.run_folder import Run, write_run

IDENTITY = {"model": "test_vit", "weights": "abc", "images": "123", "number of images": 400, "batch size": 32}
IDENTITY |= {"data": "photos", "dtype": "fp32", "compiled": False}
ENVIRONMENT = {"device": "Fast Chip", "vitrim": "0"}
UNREDUCED = make_row("unreduced", lost=0, won=0)
TOME = make_row("tome", "r_8 & more", top1=79.5, drop=0.5, speedup=1.4, gmacs=0.6, lost=3, won=1)


@pytest.fixture
def save(tmp_path):
    """Write a run into a folder of its own."""

    def written(name, *rows, commands=("vitrim compare",), **identity):
        predictions = Predictions(("a", "b"), (1, 2), {row.name: (1, 2) for row in (UNREDUCED, *rows)})
        run = Run(IDENTITY | identity, ENVIRONMENT, commands, rows=(UNREDUCED, *rows), predictions=predictions)
        (tmp_path / name).mkdir()
        write_run(tmp_path / name, run)
        return tmp_path / name

    return written


def test_rows_of_two_runs_stand_together_by_method(save):
    one, two = save("one", make_row("evit", "keep 0.7"), TOME), save("two", make_row("evit", "keep 0.5"))
    run, notes = read_runs([one, two])
    names = ["unreduced", "evit keep 0.7", "evit keep 0.5", TOME.name]
    assert [row.name for row in run.rows] == names
    assert set(run.predictions.rows) == set(names)
    assert notes == []


def test_a_row_that_was_measured_twice_is_shown_once(save):
    again = replace(TOME, top1=79.0)
    run, notes = read_runs([save("one", TOME), save("two", again)])
    assert run.rows[1:] == (again,)
    assert "1 rows were measured in more than one run" in notes[0]


def test_rows_tell_the_conditions_in_which_runs_differ(save):
    run, notes = read_runs([save("one", TOME), save("two", replace(TOME, batch=8), **{"batch size": 8})])
    assert [row.name for row in run.rows] == [
        "unreduced", TOME.name, f"{TOME.name} [batch size 8]", "unreduced [batch size 8]",
    ]  # fmt: skip
    assert "batch size 32" in notes[0]
    assert f"{TOME.name} [batch size 8]" in run.predictions.rows


@pytest.mark.parametrize(("name", "value"), [("model", "other"), ("weights", "xyz"), ("images", "456")])
def test_runs_that_cannot_be_compared_are_refused_in_one_line(save, name, value):
    one, two = save("one", TOME), save("two", TOME, **{name: value})
    with pytest.raises(ValueError, match=f"two cannot be compared with .*one: its {name} is {value}") as error:
        read_runs([one, two])
    assert "\n" not in str(error.value)


def command(*arguments):
    return CliRunner().invoke(app, ["report", *map(str, arguments)])


def test_the_report_is_made_again_and_joined(save, tmp_path):
    one, two = save("one", TOME), save("two", make_row("evit", "keep 0.5"))
    assert command(one).output == f"wrote {one / 'report.html'}.\n"
    assert "r_8 &amp; more" in (one / "report.html").read_text()
    command(one, two, "--output", tmp_path / "joined.html")
    page = (tmp_path / "joined.html").read_text()
    assert "keep 0.5" in page and "r_8 &amp; more" in page


def test_the_table_is_written_for_a_paper(save):
    one = save("one", TOME)
    latex = command(one, "--format", "latex").output
    assert r"tome & r\_8 \& more & 79.50 & 0.50 (-0.7 to 1.7) & 3 / 1 & 1.40x" in latex
    assert latex.startswith("% needs") and latex.count(r"\\") == 3
    head, marks, _, line = command(one, "--format", "markdown").output.splitlines()
    assert head.startswith("| Method | Setting | Top-1 % |") and marks.startswith("| --- | --- | ---: |")
    assert line.startswith("| tome | r_8 & more | 79.50 | 0.50 (")
    (_, row) = csv.DictReader(io.StringIO(command(one, "--format", "csv").output))
    assert (row["top1"], row["lost"], row["speedup"]) == ("79.50", "3", "1.400")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], "no such folder"),
        (["empty"], "no results.json"),
        (["one", "--format", "pdf"], "html, latex, markdown, csv"),
        (["one", "one"], "--output joined.html"),
        (["one", "tuned", "--format", "csv"], "stands alone"),
    ],
)
def test_what_cannot_be_reported_is_said_in_one_line(save, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    save("one", TOME)
    for name in ("empty", "tuned"):
        (tmp_path / name).mkdir()
    (tmp_path / "tuned" / "tuned.json").write_text("{}")
    said = command(*arguments)
    assert said.exit_code == 2
    assert words in said.output.splitlines()[-1]
