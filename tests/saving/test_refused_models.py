"""A model that could not be built again from what is written is refused."""

from __future__ import annotations

import pytest
import torch
from saved_models import SMALL, built
from timm.models.vision_transformer import VisionTransformer
from torch import nn

import vitrim


def test_a_model_that_timm_does_not_know_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"VisionTransformer.*timm"):
        vitrim.save_pretrained(VisionTransformer(**SMALL), tmp_path / "saved")


def other_norm(model):
    model.blocks[1].norm1.eps = 1e-3


def other_activation(model):
    model.blocks[1].mlp.act = nn.ReLU()


def other_head(model):
    model.head = nn.Sequential(nn.LayerNorm(48), nn.Linear(48, 8))


@pytest.mark.parametrize(
    ("alter", "named"),
    [(other_norm, r"blocks\.1\.norm1\.eps.*0\.001"), (other_activation, r"act.*ReLU"), (other_head, "head")],
)
def test_a_model_altered_by_hand_is_refused_with_the_difference(alter, named, tmp_path):
    model = built()
    alter(model)
    with pytest.raises(ValueError, match=named) as error:
        vitrim.save_pretrained(vitrim.reduce_tokens(model, "evit"), tmp_path / "saved")
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_plain_is_refused_in_recipe_and_metrics(tmp_path):
    for about in ({"recipe": {"lr": object()}}, {"metrics": {"top-1": torch.tensor(1.0)}}, {"metrics": {"a": 1e400}}):
        with pytest.raises(ValueError, match=r"recipe and metrics.*JSON"):
            vitrim.save_pretrained(built(), tmp_path / "saved", **about)
