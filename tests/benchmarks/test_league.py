"""The league has a row, or a reason, for every method and rival, and takes methods of others."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import timm
import torch

import vitrim
from benchmarks import contenders, league, league_speed
from benchmarks.experiment import run
from benchmarks.rows import read
from benchmarks.tables import league as tables
from small_job import save_checkpoint, save_images
from vitrim.backbones.reader import read_backbone

MINE = '''
from dataclasses import dataclass
import vitrim

@vitrim.register_method
@dataclass(frozen=True, kw_only=True)
class Halves(vitrim.EViT):
    """EViT under another name."""
    name = "halves_of_others"
'''


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return timm.create_model("test_vit", img_size=64).eval()


@pytest.mark.parametrize("name", ["evit", "tome", "ward", "resolution", "depth"])
def test_a_contender_costs_at_most_what_the_ratio_allows(model: torch.nn.Module, name: str) -> None:
    made = contenders.make(model, name, 1.5)
    assert made.model is not None
    assert made.charged <= contenders.CLOSE * vitrim.count_macs(model) / 1.5


def test_no_method_is_credited_for_the_work_that_nobody_reads(model: torch.nn.Module) -> None:
    spec, full = read_backbone(model).spec, vitrim.count_macs(model)
    unread = vitrim.Ward(patches=(*[16] * 6, 1))
    skipped = full - vitrim.count_macs(vitrim.reduce_tokens(model, unread))
    vitrim.restore(model)
    assert skipped > 0
    assert full <= contenders.charged(full, spec, unread) < full + skipped / 10


def test_a_league_has_rows_and_reasons_and_a_method_of_somebody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint, data = save_checkpoint(tmp_path / "weights.safetensors"), save_images(tmp_path / "images")
    (tmp_path / "mine.py").write_text(MINE)
    shared = ["--model", "test_vit", "--checkpoint", str(checkpoint), "--plugin", str(tmp_path / "mine.py")]
    shared += ["--threads", "1", "--results", str(tmp_path / "rows"), "--target", "1.5"]
    names = ["tome", "halves_of_others", "resolution", "ltmp", "dtem", "metr"]
    assert run(league.EXPERIMENT, [*shared, "1.0", "--data", str(data), "--method", *names, "unread"]) == 0
    (path,) = (tmp_path / "rows").glob("league_accuracy_*")
    rows = {row["method"]: row for row in read(path)}
    assert {name for name, row in rows.items() if row["reason"]} == {"ltmp", "dtem", "metr"}
    assert (rows["unread"]["target"], rows["unread"]["lost_points"], rows["unread"]["images_lost"]) == (
        "1.0",
        "0.000",
        "0",
    )
    assert float(rows["halves_of_others"]["divergence"]) > 0
    assert rows["tome"]["num_images"] == "6"
    speeds = ["--batch", "1", "--rounds", "2", "--method", "tome", "unread", "resolution", "ltmp"]
    assert run(league_speed.EXPERIMENT, [*shared, *speeds]) == 0
    (path,) = (tmp_path / "rows").glob("league_speed_*")
    assert {row["method"]: bool(row["speedup"]) for row in read(path)} == {
        "tome": True,
        "unread": True,
        "resolution": True,
        "ltmp": False,
    }
    monkeypatch.setattr("benchmarks.rows.RESULTS", tmp_path / "rows")
    text = tables.TABLES["league_1.5"].text()
    (line,) = (line for line in text.splitlines() if line.startswith("| `tome` |"))
    *_, at_32, at_1, end = line.split("|")
    assert (at_32.strip(), at_1.strip()[:2], end) == ("", "**", "")
    assert re.search(r"plain input of \d+ px, .*; \d of the 2 methods here lose more", text)
    assert "*rival:* last MLP on the class token alone" in tables.TABLES["league_always"].text()
    assert "- `ltmp` at 1.5x: its cost varies" in tables.TABLES["league_always"].text()
