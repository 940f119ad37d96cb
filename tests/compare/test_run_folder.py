"""An output folder keeps finished rows. It belongs to one run, and one process at a time."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import pytest

from rows import make_row
from vitrim.compare.predictions import Change, Predictions
from vitrim.compare.row import Row
from vitrim.compare.run_folder import check_output, open_run, read_run, write_run
from vitrim.store import locked, replace_file

OLDER = Path(__file__).parents[1] / "data" / "saved" / "run_of_0.1.0"
IDENTITY = {"model": "test_vit", "batch size": 4}

ROW = make_row("evit", "keep 0.5", settings={"keep_rate": [0.5]}, tokens=[17, 10])


def test_a_run_reads_back_as_it_was_written(tmp_path):
    run = replace(open_run(tmp_path, IDENTITY, {"torch": "2"}, "vitrim compare"), rows=(ROW,))
    write_run(tmp_path, run)
    assert open_run(tmp_path, IDENTITY, {"torch": "2"}, "vitrim compare") == run
    assert run.row(("evit", "keep 0.5")) == ROW
    assert run.row(("evit", "keep 0.7")) is None


def test_a_run_that_was_stopped_between_its_files_goes_on(tmp_path, monkeypatch):
    def stop(path, content):
        if path.name == "results.csv":
            raise KeyboardInterrupt
        replace_file(path, content)

    run = open_run(tmp_path, IDENTITY, {}, "a")
    monkeypatch.setattr("vitrim.compare.run_folder.replace_file", stop)
    with pytest.raises(KeyboardInterrupt):
        write_run(tmp_path, run)
    check_output(tmp_path)
    assert open_run(tmp_path, IDENTITY, {}, "a") == run


def test_the_table_has_a_line_per_row_and_a_column_per_number(tmp_path):
    write_run(tmp_path, replace(open_run(tmp_path, IDENTITY, {}, "a"), rows=(ROW,)))
    (line,) = csv.DictReader((tmp_path / "results.csv").read_text().splitlines())
    ranges = {f"{name}_{end}" for name in ("speedup", "speedup_1") for end in ("p10", "p90")}
    assert set(line) == {*(field.name for field in fields(Row)), *ranges, "drop_low", "drop_high", "reason"}
    assert [line[name] for name in ("speedup", "speedup_p10", "speedup_p90")] == ["1.000", "0.900", "1.100"]
    assert (line["settings"], line["top1"], line["tokens"]) == ("keep_rate=[0.5]", "80.00", "17 10")


def test_numbers_of_the_table_are_rounded_and_no_cell_holds_json(tmp_path):
    numbers = {"top1": 100 / 3, "gmacs": 0.1234567891, "images_per_s": 1234.5678, "drop": -0.0001}
    row = replace(ROW, **numbers, settings={"fuse": False, "layers": (1, 2)}, lost=3, won=1, num_images=400)
    write_run(tmp_path, replace(open_run(tmp_path, IDENTITY, {}, "a"), rows=(row,)))
    (line,) = csv.DictReader((tmp_path / "results.csv").read_text().splitlines())
    shown = [line[name] for name in (*numbers, "settings")]
    assert shown == ["33.33", "0.123457", "1235", "0.00", "fuse=false layers=[1,2]"]
    assert -2 < float(line["drop_low"]) < 0.5 < float(line["drop_high"]) < 2
    assert not {"{", "}"} & set("".join(line.values()))


def test_images_behind_a_loss_follow_from_the_row():
    row = replace(ROW, top1=75.0, num_images=400, lost=30, won=10)
    assert (row.paired.both, row.paired.neither, row.paired.points) == (290, 70, 5.0)
    assert ROW.paired is None


def test_predictions_come_back_and_give_the_images_lost_and_won(tmp_path):
    predictions = Predictions(("a,b.png", "c.png", "d.png"), (5, 6, 7))
    predictions = predictions.adding("unreduced", (5, 0, 7)).adding("evit keep 0.5", (1, 6, 7))
    write_run(tmp_path, replace(open_run(tmp_path, IDENTITY, {}, "a"), rows=(ROW,), predictions=predictions))
    found = read_run(tmp_path / "results.json").predictions
    assert found == predictions
    assert found.changes("unreduced", "evit keep 0.5") == [
        Change(0, 5, 5, 1, lost=True),
        Change(1, 6, 0, 6, lost=False),
    ]
    assert found.changes("unreduced", "tome r 8") is None


@pytest.mark.parametrize(
    ("content", "told"),
    [("", "predictions"), ("file,label\na.png,x\n", "number of a class"), ("file,label,a\na.png,1\n", "predictions")],
)
def test_predictions_of_another_program_are_refused(tmp_path, content, told):
    write_run(tmp_path, replace(open_run(tmp_path, IDENTITY, {}, "a"), rows=(ROW,)))
    (tmp_path / "predictions.csv").write_text(content)
    with pytest.raises(ValueError, match=told):
        read_run(tmp_path / "results.json")


def test_rows_whose_percentiles_have_their_older_names_are_read(tmp_path):
    run = replace(open_run(tmp_path, IDENTITY, {}, "a"), rows=(ROW,))
    write_run(tmp_path, run)
    file = tmp_path / "results.json"
    older = file.read_text().replace("speedup_p10", "speedup_low").replace("speedup_p90", "speedup_high")
    file.write_text(older)
    speedup = open_run(tmp_path, IDENTITY, {}, "a").rows[0].speedup
    assert (speedup.low, speedup.median, speedup.high) == (0.9, 1.0, 1.1)
    file.write_text(older.replace('"speedup_low"', '"slowest"'))
    with pytest.raises(ValueError, match="speedup"):
        open_run(tmp_path, IDENTITY, {}, "a")


def test_a_run_of_an_older_version_is_read_and_not_mixed_with_new_rows(tmp_path):
    run = read_run(OLDER / "results.json")
    assert [row.key for row in run.rows] == [("unreduced", ""), ("evit", "keep 0.7"), ("evit", "keep 0.5")]
    assert [f"{row.speedup:.2f} ({row.speedup.range})" for row in run.rows[1:]] == [
        "1.75 (1.54 to 2.10)",
        "1.63 (1.34 to 3.17)",
    ]
    shutil.copytree(OLDER, tmp_path / "run")
    with pytest.raises(ValueError, match=r"another run.*labels.*None.*--replace"):
        open_run(tmp_path / "run", run.identity | {"labels": "labels.csv"}, {}, "vitrim compare")


def test_every_command_of_a_run_is_kept_once(tmp_path):
    for command in ("a", "b", "b"):
        write_run(tmp_path, open_run(tmp_path, IDENTITY, {}, command))
    assert read_run(tmp_path / "results.json").commands == ("a", "b")


def test_another_run_is_refused_by_its_first_difference(tmp_path):
    write_run(tmp_path, open_run(tmp_path, IDENTITY, {}, "a"))
    with pytest.raises(ValueError, match=r"another run.*batch size.*4.*8"):
        open_run(tmp_path, IDENTITY | {"batch size": 8, "seed": 1}, {}, "a")


def test_another_run_is_replaced_where_that_is_asked_for_and_nothing_else_lies_there(tmp_path):
    old = replace(open_run(tmp_path, IDENTITY, {}, "a"), rows=(ROW,))
    write_run(tmp_path, old)
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "0.png").write_bytes(b"")
    assert open_run(tmp_path, IDENTITY, {}, "a", replaces=True) == old
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"notes\.txt"):
        open_run(tmp_path, IDENTITY | {"seed": 1}, {}, "b", replaces=True)
    assert read_run(tmp_path / "results.json") == old
    (tmp_path / "notes.txt").unlink()
    new = open_run(tmp_path, IDENTITY | {"seed": 1}, {}, "b", replaces=True)
    assert (new.rows, new.commands) == ((), ("b",))
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "results.json").write_text("of another version")
    assert open_run(tmp_path, IDENTITY, {}, "a", replaces=True).rows == ()


def test_results_of_another_program_are_refused(tmp_path):
    for content in ("no json", "[1]", '{"rows": [{"method": "evit"}]}', '{"epochs": 3}'):
        (tmp_path / "results.json").write_text(content)
        with pytest.raises(ValueError, match=r"results.json.*version of vitrim"):
            open_run(tmp_path, IDENTITY, {}, "a")


def test_a_folder_with_other_files_is_refused(tmp_path):
    check_output(tmp_path)
    check_output(tmp_path / "new")
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(ValueError, match=r"no results\.json"):
        check_output(tmp_path)
    with pytest.raises(ValueError, match=r"thesis.tex is a file"):
        check_output(tmp_path / "thesis.tex")


def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    file = tmp_path / "results.json"
    replace_file(file, "old")

    def crash(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", crash)
    with pytest.raises(KeyboardInterrupt):
        replace_file(file, "new")
    assert file.read_text() == "old"


HOLD = "import sys; from pathlib import Path; from vitrim.store import locked\n"
HOLD += "with locked(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"


def test_a_folder_that_another_process_works_in_is_refused_until_it_ends(tmp_path):
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match=rf"process {other.pid}\b"), locked(tmp_path):
            pass
        other.kill()
        other.wait()
        with locked(tmp_path):  # a killed process leaves nothing to clean up
            assert (tmp_path / ".lock").exists()


def change(content, where, value):
    """The content with another value at a path of keys."""
    at = content
    for key in where[:-1]:
        at = at[key]
    at[where[-1]] = value
    return content


@pytest.mark.parametrize(
    ("where", "value", "told"),
    [
        (("rows", 0, "top1"), "x", "top1.* x"),
        (("rows", 0, "top1"), 101, "top1"),
        (("rows", 0, "speedup"), None, "speedup"),
        (("rows", 0, "speedup_p10"), -1.0, "speedup"),
        (("rows", 0, "speedup_p90"), "fast", "speedup"),
        (("rows", 0, "gmacs"), float("nan"), "gmacs.* nan"),
        (("rows", 0, "tokens"), 5, "tokens"),
        (("rows", 0, "tokens"), ["many"], "tokens"),
        (("rows", 0, "num_images"), 0, "num_images"),
        (("rows", 0, "latency_1_ms"), 10**400, "latency_1_ms"),
        (("rows",), 5, "rows"),
        (("pictures",), [5], "pictures"),
        (("pictures",), [{"image": 5, "name": "", "label": "", "tracks": []}], "image.* 5"),
        (("commands",), "a", "commands"),
        (("skipped_files",), [None], "skipped_files"),
        (("environment",), [], "environment"),
        (("epochs",), 3, "identity, environment, commands"),
        (("refused",), [5], "refused"),
        (("refused",), [{"method": "tome", "setting": "r 9", "reason": 9}], "reason.* 9"),
    ],
)
def test_values_that_vitrim_does_not_write_are_refused(tmp_path, where, value, told):
    write_run(tmp_path, replace(open_run(tmp_path, IDENTITY, {}, "a"), rows=(ROW,)))
    file = tmp_path / "results.json"
    file.write_text(json.dumps(change(json.loads(file.read_text()), where, value)))
    with pytest.raises(ValueError, match=told):
        read_run(file)


def test_results_nested_too_deeply_or_no_file_are_refused(tmp_path):
    for make in (lambda path: path.write_text("[" * 10**6), os.mkfifo):
        (tmp_path / "results.json").unlink(missing_ok=True)
        make(tmp_path / "results.json")
        with pytest.raises(ValueError, match=r"results.json.*version"):
            read_run(tmp_path / "results.json")


def test_names_that_no_encoding_holds_come_back(tmp_path):
    run = open_run(tmp_path, {"data": "photos \udcff"}, {}, "a")
    write_run(tmp_path, run)
    assert read_run(tmp_path / "results.json") == run
