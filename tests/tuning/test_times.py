"""What a schedule is said to cost where time is measured: at every number of patches, or fitted to whole models."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

import vitrim
from vitrim.backbones.reader import read_backbone
from vitrim.models.embedded import demo_images
from vitrim.tuning.cost import Fitted, Milliseconds, terms
from vitrim.tuning.families import families
from vitrim.tuning.fitted import examples, fit, measure_fitted
from vitrim.tuning.shapes import Frame
from vitrim.tuning.table import _counts
from vitrim.tuning.timing import Clock, Way

SMALL = {"img_size": 32, "patch_size": 4, "embed_dim": 24, "depth": 6, "num_heads": 3, "num_classes": 5}


def small() -> nn.Module:
    torch.manual_seed(0)
    return VisionTransformer(**SMALL).eval()


def saw(tooth: int, num_patches: int = 64) -> dict[int, float]:
    """Times that fall by a third at whole tiles, the class token counted."""
    return {p: (p + 1) * (1.0 if (p + 1) % tooth == 0 else 1.5) for p in range(1, num_patches + 1)}


def test_counts_go_up_to_the_edge_of_a_tile_where_that_is_faster() -> None:
    cost = Milliseconds(saw(16), dict.fromkeys(saw(16), 0.0), dict.fromkeys(saw(16), 0.1))
    before = (64, 62, 45, 40, 28, 1)
    after = cost.rounded(before)
    assert after == (64, 63, 47, 47, 31, 1)  # 63, 47 and 31 patches are whole tiles; 40 cost more than 47
    assert cost(after) < cost(before)


def test_a_block_that_gains_less_than_its_reduction_costs_does_not_reduce() -> None:
    line = {p: float(p) for p in range(1, 65)}
    cost = Milliseconds(line, dict.fromkeys(line, 0.0), dict.fromkeys(line, 5.0))
    assert cost.rounded((64, 62, 50, 48, 30, 30)) == (64, 64, 50, 50, 30, 30)


def test_no_block_is_made_to_remove_more_than_half() -> None:
    line = dict.fromkeys(range(1, 65), 1.0)
    cost = Milliseconds(line, line, dict.fromkeys(line, 5.0))
    found = cost.rounded((64, 40, 24, 13, 13, 1))
    assert all(a - b <= a // 2 for a, b in zip(found[:-1], found[1:-1], strict=False))


def test_the_table_has_every_count_or_both_ends_of_each_tile() -> None:
    spec = read_backbone(small()).spec
    assert _counts(spec, once=0.1) == list(range(64, 0, -1))
    few = _counts(spec, once=1e6)
    assert {63, 62, 55, 54, 47, 46, 31, 30, 15, 14} <= set(few) and len(few) < 20 and {1, 64} <= set(few)


def test_a_fit_gives_back_the_times_that_it_was_made_of() -> None:
    spec = read_backbone(small()).spec
    rows = [terms(spec, each) for each in (*examples(Frame.of(spec)), (64,) * 7)]
    true = (3.0, 2000.0, 4000.0, 0.25)
    weights, error = fit(rows, [sum(w * t for w, t in zip(true, row, strict=True)) for row in rows])
    assert weights == pytest.approx(true, rel=1e-6) and error < 1e-9
    falling = [1.0 / row[1] for row in rows]  # no sum of terms with weights of at least 0 falls
    weights, error = fit(rows, falling)
    assert min(weights) >= 0 and error > 0.1


@pytest.mark.parametrize("way", [Way(route="onnx", batch_size=1), Way(compile=True, batch_size=2)], ids=str)
@pytest.mark.slow
def test_whole_models_are_timed_in_the_way_in_which_they_will_run(way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vitrim.tuning.timing.ROUNDS", 3)
    model = small()
    spec = read_backbone(model).spec
    found = measure_fitted(Clock(way, model), spec, families(spec)[0].make)
    assert found.unreduced > 0 and min(found.weights) >= 0 and found.unit == "ms"
    again = Fitted(spec, **found.content())
    assert again((64,) * 7) == found((64,) * 7)


@pytest.mark.slow
def test_a_search_by_a_route_says_that_times_were_fitted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vitrim.tuning.timing.ROUNDS", 2)
    images = demo_images(tmp_path / "fashion")
    model = vitrim.load_model("vitrim_fashion_tiny")
    found = vitrim.tune(model, images, speedup=1.1, limit=24, tries=1, route="onnx", output=tmp_path / "out")
    assert found.way.startswith("onnx") and any("fitted to a few whole models" in note for note in found.notes)
    assert found.unit == "ms" and not found.block_ms


def test_in_another_dtype_answers_and_times_are_of_that_dtype(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vitrim.tuning.timing.ROUNDS", 1)
    images, model = demo_images(tmp_path / "fashion"), vitrim.load_model("vitrim_fashion_tiny")
    found = vitrim.tune(model, images, gmacs=0.1, limit=16, tries=0, dtype="bf16")
    assert "bf16" in found.way and 0 < found.best.divergence < 1
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}  # it stays as it is
