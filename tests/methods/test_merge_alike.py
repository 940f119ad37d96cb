"""merge_alike: per-image counts that no batch changes, thresholds per block, and thresholds for a budget."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import vitrim
from conformance import families
from vitrim.methods.merge_alike import smaller_half
from vitrim.testing import leaving_blocks


@pytest.mark.parametrize("by_size", [None, 2])
@pytest.mark.parametrize("family", ["vit", "gap", "dinov3"])
@torch.inference_mode()
def test_an_image_gets_the_same_answer_alone_and_in_any_batch(family: str, by_size: int | None) -> None:
    model = families.small_model(family).double()
    vitrim.reduce_tokens(model, vitrim.MergeAlike(threshold=0.9, growth=0.2, by_size=by_size))
    images = families.small_images(family, 7).double()
    alone = torch.cat([model(image.unsqueeze(0)) for image in images])
    for order in (list(range(7)), [3, 6, 0, 5, 1, 4, 2]):
        for size in (1, 2, 7):
            chosen = order[:size]
            with leaving_blocks(model) as seen:
                together = model(images[chosen])
            assert (together - alone[chosen]).abs().max() < 1e-10
        assert any(tokens.lengths for tokens in seen), "nothing was packed"


def test_thresholds_fall_from_block_to_block_down_to_the_least(moment: Any) -> None:
    built: Any = vitrim.MergeAlike(threshold=0.9, growth=0.5, least=0.7).build(moment.spec)
    assert built.threshold == pytest.approx((0.9, 0.9 - 0.1 * 0.64872127, 0.7281718, 0.7))
    assert built.build(moment.spec) == built
    assert vitrim.MergeAlike(threshold=1).build(moment.spec).threshold == (1, 1, 1, 1)
    listed: Any = vitrim.MergeAlike(threshold=[0.8, 0.6], layers=(1, 3)).build(moment.spec)
    assert [listed.threshold_at(layer) for layer in range(4)] == [1, 0.8, 1, 0.6]


def test_the_smaller_half_are_the_smallest_and_of_equal_ones_the_later() -> None:
    size_BN = torch.tensor([[1.0, 3.0, 1.0, 2.0, 9.0], [1.0, 1.0, 1.0, 0.0, 0.0]])
    live_BN = torch.tensor([[True] * 5, [True, True, True, False, False]])
    assert smaller_half(size_BN, live_BN).tolist() == [
        [True, False, True, False, False],
        [False, False, True, False, False],
    ]


@torch.inference_mode()
def test_where_no_patch_is_like_another_the_model_answers_as_before() -> None:
    model, images = families.small_model("vit"), families.small_images("vit")
    wanted = model(images)
    assert vitrim.reduce_tokens(model, vitrim.MergeAlike(threshold=1.0))(images).equal(wanted)


@pytest.mark.parametrize("name", ["merge_alike", "attention_mass"])
def test_a_budget_is_met_on_the_images_given(name: str) -> None:
    model, images = families.small_model("vit"), families.small_images("vit", 3)
    whole = vitrim.count_macs(model)
    method = vitrim.method_for_macs(model, name, 0.8 * whole / 1e9, images_ICHW=images)
    assert vitrim.method_of(model) is None
    found = vitrim.count_macs(vitrim.reduce_tokens(model, method), images_ICHW=images)
    assert 0.75 * whole < found <= 0.8 * whole
    with pytest.raises(ValueError, match="cannot reduce these images to"):
        vitrim.method_for_macs(model, name, 1e-6, images_ICHW=images)
    with pytest.raises(ValueError, match="without images: set it"):
        vitrim.method_for_macs(model, name, 0.01)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"threshold": 0}, "threshold must be above 0"),
        ({"growth": -1}, "growth is a number from 0"),
        ({"least": 2}, "least is a cosine"),
        ({"by_size": -1}, "by_size is a block"),
        ({"threshold": (0.9, 0.8), "layers": (1,)}, "1 reducing layers need 1 thresholds"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        vitrim.reduce_tokens(families.small_model("vit"), vitrim.MergeAlike(**settings))
