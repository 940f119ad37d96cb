"""The default schedule, which needs no images."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

import vitrim
from vitrim.models.embedded import demo_images
from vitrim.tuning.sample import answer, answers_for

MODEL = "vitrim_fashion_tiny"


@pytest.mark.parametrize("speedup", [1.5, 2.0])
def test_auto_changes_the_answers_of_the_packaged_model_less_than_tome(speedup: float, tmp_path: Path) -> None:
    model = vitrim.load_model(MODEL)
    batch = next(iter(vitrim.load_images(model, demo_images(tmp_path / "fashion"), limit=200, batch_size=200)))
    answers = answers_for(model, num_prefix=1)

    def read(which: torch.nn.Module) -> torch.Tensor:
        return answer(which, batch.x_BCHW, answers, torch.device("cpu"))

    auto = vitrim.reduce_tokens(copy.deepcopy(model), "auto", speedup=speedup)
    gmacs = vitrim.count_macs(auto) / 1e9
    tome = vitrim.reduce_tokens(copy.deepcopy(model), vitrim.method_for_macs(model, "tome", gmacs))
    wanted = read(model)
    ours, theirs = (answers.divergence(wanted, read(each)).mean() for each in (auto, tome))
    assert vitrim.count_macs(tome) / 1e9 > 0.98 * gmacs  # as many multiply-adds
    assert ours < 0.9 * theirs
