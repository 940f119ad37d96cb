"""`vitrim compare --int8` measures each configuration twice, and its folder can still be resumed."""

from __future__ import annotations

import csv
import json
import sys
import xml.etree.ElementTree as ElementTree

import pytest

from rows import make_row
from small_job import small_job
from vitrim.compare.charts import accuracy_chart
from vitrim.compare.job import Watcher
from vitrim.compare.report import findings, render
from vitrim.compare.run import compare
from vitrim.compare.run_folder import Run, read_run

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


def test_the_report_tells_the_precisions_apart(tmp_path):
    run = Run(
        {"model": "m", "data": "d", "dtype": "fp32", "compiled": False}, {"device": "chip", "vitrim": "0"}, ("c",)
    )
    page = render(Run(run.identity, run.environment, run.commands, rows=ROWS), tmp_path)
    assert "1 configuration, each in fp32 and in int8" in page
    assert page.count('<td data-value="int8">int8</td>') == page.count('<td data-value="fp32">fp32</td>') == 2
    assert "Nothing was compiled here" in page
    plain = render(Run(run.identity, run.environment, run.commands, rows=ROWS[::2]), tmp_path)
    assert "int8" not in plain
    assert "precision</button>" not in plain


@pytest.mark.parametrize("cost", ["gmacs", "speedup"])
def test_points_in_int8_have_their_own_numbers(cost):
    tree = ElementTree.fromstring(accuracy_chart(ROWS, cost))
    told = [title.text for title in tree.iter() if title.tag.endswith("title")]
    assert len(told) == 4
    assert "unreduced int8: top-1 79.90 %, 1 GMACs, 0.50x" in told
    assert "evit keep 0.7, int8: top-1 78.50 %, 0.7 GMACs, 1.60x" in told


def test_findings_name_the_precision():
    assert findings(ROWS)[-1].detail.startswith("evit, keep 0.7, int8")
