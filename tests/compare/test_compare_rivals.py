"""Rivals are rows of a comparison: a smaller input, fewer blocks, the unreduced model without unread work."""

from __future__ import annotations

import csv
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from rows import make_row
from small_job import arguments, small_job
from vitrim.cli import app
from vitrim.compare.bench import UNREDUCED_KEY
from vitrim.compare.predictions import Predictions
from vitrim.compare.run import compare
from vitrim.compare.verdict import verdicts
from vitrim.loading.build import load_model
from vitrim.measure.folder import evaluate_folder
from vitrim.measure.macs import count_macs
from vitrim.rivals import read_rivals

RIVALS = "resolution=48; depth=4; unread"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A job with rivals that has run, and its run."""
    job = small_job(tmp_path_factory.mktemp("rivals"), rivals=read_rivals(RIVALS))
    return job, compare(job)


def test_rivals_are_rows_like_any_other(finished):
    job, run = finished
    unread = ("unreduced", "last MLP on class token")
    wanted = [UNREDUCED_KEY, unread, ("evit", "keep 0.5"), ("smaller input", "48 px"), ("fewer blocks", "4 blocks")]
    assert [row.key for row in run.rows] == wanted
    assert [row.rival for row in run.rows] == ["", "unread", "", "resolution", "depth"]
    by_key = {row.key: row for row in run.rows}
    small = load_model(job.model, job.checkpoint, img_size=48)
    assert by_key["smaller input", "48 px"].top1 == evaluate_folder(small, job.data).top1
    assert by_key["smaller input", "48 px"].gmacs == count_macs(small) / 1e9
    assert by_key["smaller input", "48 px"].tokens == (10,) * 6
    assert "48" in by_key["smaller input", "48 px"].preparation
    assert len(by_key["fewer blocks", "4 blocks"].tokens) == 4
    assert by_key[unread].drop == 0 and by_key[unread].mac_ratio > 1
    assert all(row.paired is not None and row.speedup > 0 for row in run.rows)


def test_the_table_says_which_rows_are_rivals(finished):
    job, _ = finished
    with (job.output / "results.csv").open(newline="") as file:
        assert [row["rival"] for row in csv.DictReader(file)] == ["", "unread", "", "resolution", "depth"]


def test_rivals_can_be_added_to_a_finished_run(finished):
    job, run = finished
    more = compare(replace(job, rivals=read_rivals("depth=3")))
    assert [row.key for row in more.rows] == [*(row.key for row in run.rows), ("fewer blocks", "3 blocks")]


@pytest.mark.parametrize(
    ("rivals", "wanted"),
    [
        ("size=48", "size"),
        ("resolution=50", "48 or 64"),
        ("depth=6", "1 to 5 of the 6"),
        ("model=vitrim_fashion_tiny", "10 classes and the model 1000"),
    ],
)
def test_a_rival_that_the_model_cannot_have_is_one_line_before_anything_is_written(tmp_path, rivals, wanted):
    job = small_job(tmp_path)
    result = CliRunner().invoke(app, [*arguments(job), "--rivals", rivals])
    assert result.exit_code == 2
    assert wanted in " ".join(result.output.split())
    assert not job.output.exists()


def test_a_method_that_a_rival_of_equal_time_beats_is_named_with_both_losses():
    right = {"unreduced": 40, "evit keep 0.7": 30, "evit keep 0.5": 20, "smaller input 176 px": 36}
    rows = [
        make_row(*key, top1=100 * right[name] / 40, drop=100 * (40 - right[name]) / 40, num_images=40, **others)
        for name, key, others in (
            ("unreduced", ("unreduced", ""), {"lost": 0, "won": 0}),
            ("evit keep 0.7", ("evit", "keep 0.7"), {"speedup": 1.5, "lost": 10, "won": 0}),
            ("evit keep 0.5", ("evit", "keep 0.5"), {"speedup": 1.9, "lost": 20, "won": 0}),
            ("smaller input 176 px", ("smaller input", "176 px"), {"speedup": 1.6, "lost": 4, "won": 0}),
        )
    ]
    rows[-1] = replace(rows[-1], rival="resolution")
    answers = {name: [0] * count + [1] * (40 - count) for name, count in right.items()}
    (found,) = verdicts(rows, Predictions([""] * 40, [0] * 40, answers))
    assert (found.row.name, found.rival.name) == ("evit keep 0.7", "smaller input 176 px")
    assert (found.between.lost, found.between.won, found.sure) == (6, 0, True)
    assert "25.0 points lost, 95 % interval 11.1 to 40.2" in found.sentence
    assert verdicts(rows[:-1], Predictions()) == []
