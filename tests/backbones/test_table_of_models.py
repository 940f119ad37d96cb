"""The table of models in docs/models.md says which are read and which are refused, as it is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

from vitrim.backbones.reader import UnsupportedModel, read_backbone

TEXT = (Path(__file__).parents[2] / "docs" / "models.md").read_text()
ROWS = re.findall(r"^\| (`.*) \| (read|refused) \| .*\|$", TEXT, re.M)
MODELS = [(name, verdict) for names, verdict in ROWS for name in re.findall(r"`(\w+)`", names)]


def without_weights(name: str) -> nn.Module:
    if timm.is_model(name):
        with torch.device("meta"):
            return timm.create_model(name)
    transformers = pytest.importorskip("transformers")
    make = getattr(transformers, name)
    with torch.device("meta"):
        model: nn.Module = make(make.config_class(num_hidden_layers=1))
    return model


@pytest.mark.parametrize(("name", "verdict"), MODELS)
def test_a_model_of_the_table_is_read_or_refused(name: str, verdict: str) -> None:
    model = without_weights(name)
    if verdict == "read":
        assert read_backbone(model).spec.depth > 0
    else:
        with pytest.raises(UnsupportedModel):
            read_backbone(model)


def test_the_table_has_models_of_both_kinds() -> None:
    assert len(MODELS) == 25
    assert {verdict for _, verdict in MODELS} == {"read", "refused"}
