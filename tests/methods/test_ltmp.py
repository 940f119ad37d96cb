"""LTMP: images of one batch keep what they need, thresholds are weights, traces tell what became of each patch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import vitrim
from conformance import families
from vitrim.core.selection import merge_where
from vitrim.core.tokens import Tokens
from vitrim.testing import leaving_blocks


def tokens_of(sizes: list[float]) -> Tokens:
    return Tokens(torch.arange(8.0).view(1, 4, 2), 1, torch.tensor([[1.0, *sizes]]), traced=True)


def test_a_merge_is_the_mean_by_size_and_what_joins_nothing_that_stays_is_dropped() -> None:
    joins_BN, target_BN = torch.tensor([[False, True, True]]), torch.tensor([[0, 0, 1]])
    out = merge_where(tokens_of([3.0, 1.0, 1.0]), joins_BN, target_BN, torch.tensor([[True, False, False]]))
    assert out.x_BNC.tolist() == [[[0.0, 1.0], [2.5, 3.5]]]  # (3 [2, 3] + [4, 5]) / 4
    assert out.size_BN is not None and out.size_BN.tolist() == [[1.0, 4.0]]
    assert out.source_BP is not None and out.source_BP.tolist() == [[1, 1, -1]]
    assert out.weight_BP is not None and out.weight_BP.tolist() == [[0.75, 0.25, 0.0]]


@pytest.mark.parametrize("family", ["vit", "gap", "dinov3"])
@torch.inference_mode()
def test_a_packed_batch_is_its_images_one_by_one_to_the_last_digits(family: str) -> None:
    model = families.small_model(family).double()
    vitrim.reduce_tokens(model, vitrim.LTMP(merge_threshold=0.85, prune_threshold=0.008))
    images = families.small_images(family, 4).double()
    with leaving_blocks(model) as seen:
        together = model(images)
    assert any(tokens.lengths for tokens in seen), "nothing was packed"
    assert (together - torch.cat([model(image.unsqueeze(0)) for image in images])).abs().max() < 1e-12


@torch.inference_mode()
def test_a_threshold_that_was_learned_takes_the_place_of_the_setting() -> None:
    model, images = families.small_model("vit"), families.small_images("vit")
    wanted = model(images)
    vitrim.reduce_tokens(model, vitrim.LTMP(merge_threshold=0.5))
    assert not model(images).equal(wanted)
    for block in model.blocks:
        nn.init.constant_(block.weights.merge_threshold, 2.0)
    torch.testing.assert_close(model(images), wanted)


@torch.inference_mode()
def test_one_patch_stays_where_all_would_go() -> None:
    model = vitrim.reduce_tokens(families.small_model("gap"), vitrim.LTMP(prune_threshold=1.0))
    with leaving_blocks(model) as seen:
        assert model(families.small_images("gap")).isfinite().all()
    assert seen[-1].num_patches == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"merge_threshold": 0}, "merge threshold must be above 0"),
        ({"prune_threshold": -0.1}, "prune threshold is a number from 0 to 1"),
        ({"prune_threshold": (0.1, 0.2), "layers": (1,)}, "1 layers need as many prune thresholds, and 2 came"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        vitrim.reduce_tokens(families.small_model("vit"), vitrim.LTMP(**settings))
