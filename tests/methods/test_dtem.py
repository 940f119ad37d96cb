"""DTEM: what it learns, what the metric reads, and pairs by it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import vitrim
from conformance import families
from vitrim.compare import fitting
from vitrim.compare.configuration import configurations
from vitrim.loading.weights import fit
from vitrim.testing import leaving_blocks


def test_the_metric_is_as_wide_as_a_head_and_twice_that_in_wide_models(moment: Any) -> None:
    built = vitrim.DTEM(layers=(1,), r=3).build(moment.spec)
    weights = built.make_weights(1, moment.spec)
    assert weights is not None
    assert weights.get_submodule("metric").weight.shape == (8, 24)
    assert built.make_weights(0, moment.spec) is None
    wide = replace(moment.spec, channels=1024, attention_channels=1024, num_heads=16)
    wide_weights = built.make_weights(1, wide)
    assert wide_weights is not None
    assert wide_weights.get_submodule("metric").weight.shape == (128, 1024)


@torch.no_grad()
def test_what_the_metric_makes_alike_merges_whatever_the_keys_say() -> None:
    model, images = families.small_model("vit"), families.small_images("vit")
    vitrim.reduce_tokens(model, vitrim.DTEM(r=[1], metric_channels=2))
    metric, norm = model.blocks[0].weights.metric, model.blocks[0].norm1
    read_BNC = norm(families.embedded(model, images))
    metric.weight.copy_(torch.randn(2, 48, generator=torch.Generator().manual_seed(0)))
    unit_BP2 = torch.nn.functional.normalize(metric(read_BNC), dim=-1)[:, 1:]
    pairs_BAB = unit_BP2[:, 1::2] @ unit_BP2[:, ::2].mT
    with leaving_blocks(model, traced=True) as seen:
        model(images)
    for source_P, pairs_AB in zip(seen[0].source_BP, pairs_BAB, strict=True):
        a, b = divmod(int(pairs_AB.argmax()), pairs_AB.shape[1])
        assert source_P[2 * a + 1] == source_P[2 * b]


def test_a_width_that_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match="metric_channels is a whole number"):
        vitrim.DTEM(metric_channels=0)


def test_new_weights_are_said_to_need_training_and_a_checkpoint_without_them_says_how() -> None:
    model = families.small_model("vit")
    state = dict(model.state_dict())
    found = fitting.fit(model, configurations(["dtem", "tome"], r=[3]))
    assert "dtem must be trained first" in found.assumption
    assert "vitrim train" in found.assumption
    assert fitting.fit(model, configurations(["tome"], r=[3])).assumption == ""
    vitrim.reduce_tokens(model, vitrim.DTEM(r=3))
    with pytest.raises(ValueError, match=r"has no weights for the method.*train it first"):
        fit(model, state, "vit", Path("plain.safetensors"))
