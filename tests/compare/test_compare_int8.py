"""`vitrim compare --int8` measures each configuration twice, and its folder can still be resumed."""

from __future__ import annotations

import csv
import json
import re
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import pytest

from rows import make_row
from small_job import small_job
from vitrim.compare.answer import answers
from vitrim.compare.job import Watcher
from vitrim.compare.report import render
from vitrim.compare.run import compare
from vitrim.compare.run_folder import Run, read_run
from vitrim.compare.usage import use_lines
from vitrim.compare.view import figures

KEYS = [("unreduced", ""), ("unreduced", "int8"), ("evit", "keep 0.5"), ("evit", "keep 0.5, int8")]
ROWS = (
    make_row("unreduced"),
    make_row("unreduced", top1=79.9, drop=0.1, speedup=0.5, precision="int8"),
    make_row("evit", "keep 0.7", top1=79.0, drop=1.0, gmacs=0.7, speedup=1.4),
    make_row("evit", "keep 0.7", top1=78.5, drop=1.5, gmacs=0.7, speedup=1.6, precision="int8"),
)


class Finished(Watcher):
    """Remembers what was measured."""

    def __init__(self):
        self.keys = []

    def finishes(self, row):
        self.keys.append(row.key)


def test_each_configuration_is_measured_twice_and_can_be_added_to_an_old_folder(tmp_path):
    pytest.importorskip("torchao", reason='needs the extra "int8"')
    compare(small_job(tmp_path))
    results = tmp_path / "out" / "results.json"
    content = json.loads(results.read_text())
    for row in content["rows"]:
        del row["precision"]  # as folders of before had it
    results.write_text(json.dumps(content))
    watcher = Finished()
    run = compare(small_job(tmp_path, int8=True), watcher)
    assert watcher.keys == KEYS[1::2]
    assert [row.key for row in run.rows] == KEYS
    assert [row.precision for row in run.rows] == ["fp32", "int8"] * 2
    assert [row.gmacs for row in run.rows[::2]] == [row.gmacs for row in run.rows[1::2]]
    assert run.rows[3].drop == pytest.approx(run.rows[0].top1 - run.rows[3].top1)
    assert [row.settings["keep_rate"] for row in run.rows[2:]] == [[0.5] * 3, (0.5,) * 3]  # one read, one measured
    assert run.rows[3].peak_memory_mb < run.rows[2].peak_memory_mb
    assert ["torchao" in row.versions for row in run.rows] == [False, True] * 2
    table = list(csv.DictReader((tmp_path / "out" / "results.csv").read_text().splitlines()))
    assert [(row["setting"], row["precision"]) for row in table[2:]] == [("keep 0.5", "fp32"), ("keep 0.5", "int8")]
    again = Finished()
    assert compare(small_job(tmp_path, int8=True), again).rows == read_run(results).rows
    assert again.keys == []


def test_without_torchao_nothing_is_begun(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    with pytest.raises(ValueError, match=r'pip install "vitrim\[int8\]"'):
        compare(small_job(tmp_path, int8=True))
    assert not (tmp_path / "out").exists()


RUN = Run(
    {"model": "m", "data": "d", "dtype": "fp32", "compiled": False}, {"device": "chip", "vitrim": "0"}, ("c",), ROWS
)


def test_the_report_tells_the_precisions_apart(tmp_path):
    page = render(RUN, [tmp_path])
    assert re.findall(r">([^<>]*, int8|int8)</td>", page) == ["int8", "keep 0.7, int8"]
    assert "hollow: int8" in page and "fp32 and int8 on chip" in page
    assert "Nothing was compiled here" in page
    plain = render(replace(RUN, rows=ROWS[::2]), [tmp_path])
    assert "int8" not in plain


@pytest.mark.parametrize("place", [0, 1])
def test_points_in_int8_have_their_own_numbers(place):
    tree = ElementTree.fromstring(figures(ROWS)[place].svg)
    told = [title.text for title in tree.iter() if title.tag.endswith("title")]
    assert len(told) == 4
    for name, numbers in (("unreduced int8", "1 GMACs, 0.50x"), ("evit keep 0.7, int8", "0.7 GMACs, 1.60x")):
        assert any(each.startswith(f"{name}: top-1") and numbers in each for each in told)


def test_the_answer_and_the_line_to_use_name_the_precision():
    rows = (ROWS[0], *(replace(row, drop=0.1, lost=1, won=1, num_images=10_000) for row in ROWS[1:]))
    assert answers(rows)[-1].sentence.startswith("evit keep 0.7, int8 is the fastest")
    assert "vitrim.quantize_int8(model)" in use_lines(RUN, ROWS[3])[0][1]
