"""ATS: the grid by hand, images that keep their own patches whatever else is in the batch, what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import vitrim
from conformance import families
from vitrim.methods.ats import sampled
from vitrim.testing import leaving_blocks

ALL = torch.ones(1, 4, dtype=torch.bool)


def drawn(score: list[float], num_samples: int, live: Tensor = ALL) -> list[int]:
    return sampled(torch.tensor([score]), live, num_samples)[0].nonzero().flatten().tolist()


def test_the_lowest_score_is_never_drawn_and_a_high_one_takes_several_points() -> None:
    score = [0.1, 0.2, 0.3, 0.4]  # in rising order F is 0, 2/9, 5/9, 1
    assert drawn(score, 4) == [1, 2, 3]
    assert drawn(score, 2) == [1, 3]  # points at 2/9 and 1
    assert drawn([0.01, 0.01, 0.01, 0.97], 40) == [1, 2, 3]


def test_padding_changes_nothing_and_an_only_patch_stays() -> None:
    live = torch.tensor([[True, True, True, False]])
    for num_samples in (2, 5):
        padded = drawn([0.2, 0.5, 0.3, 9.0], num_samples, live)
        assert padded == sampled(torch.tensor([[0.2, 0.5, 0.3]]), live[:, :3], num_samples)[0].nonzero()[:, 0].tolist()
    assert drawn([0.5, 0.0, 0.0, 0.0], 3, torch.tensor([[True, False, False, False]])) == [0]
    assert drawn([0.0, 0.0, 0.0, 0.0], 4) != []


@pytest.mark.parametrize("samples", [1.0, 0.4])
def test_an_image_keeps_the_same_patches_and_logits_in_any_batch(samples: float) -> None:
    model = vitrim.reduce_tokens(families.small_model("vit").double(), vitrim.ATS(samples=samples))
    images = families.small_images("vit", 7).double()
    alone = [kept_and_logits(model, image.unsqueeze(0)) for image in images]
    for order in ([0, 1, 2, 3, 4, 5, 6], [6, 2, 0, 5, 1, 4, 3], [3, 5]):
        kept, logits = kept_and_logits(model, images[order])
        for place, image in enumerate(order):
            assert [layer[place] for layer in kept] == [layer[0] for layer in alone[image][0]]
            assert (logits[place] - alone[image][1][0]).abs().max() < 1e-10
    counts = {len(layers[0][-1][0]) for layers in alone}
    assert len(counts) > 1  # or the batch would not be packed


def kept_and_logits(model: Any, images: Tensor) -> tuple[list[list[list[int]]], Tensor]:
    """The patches that each image keeps after each block, and its logits."""
    with torch.no_grad(), leaving_blocks(model, traced=True) as seen:
        logits = model(images)
    sources = [tokens.source_BP for tokens in seen if tokens.source_BP is not None]
    return [[(source_P >= 0).nonzero().flatten().tolist() for source_P in source_BP] for source_BP in sources], logits


def test_a_block_computes_the_attention_of_the_kept_patches_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    model = vitrim.reduce_tokens(families.small_model("vit"), vitrim.ATS(layers=(2,), samples=0.5))
    asked, attend = [], torch.nn.functional.scaled_dot_product_attention

    def watched(query: Tensor, key: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        asked.append((query.shape[2], key.shape[2]))
        return attend(query, key, *args, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", watched)
    with torch.no_grad():
        model(families.small_images("vit", 1))
    assert asked[:2] == [(65, 65)] * 2
    assert asked[2][1] == 65
    assert asked[2][0] == asked[3][0] == asked[3][1] <= 33


def test_its_gradients_are_finite() -> None:
    model = vitrim.reduce_tokens(families.small_model("vit"), vitrim.ATS(samples=0.5)).train()
    model(families.small_images("vit", 3)).square().sum().backward()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in model.blocks.parameters())


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="samples is a number from 0 to 1"):
        vitrim.ATS(samples=1.5)
    with pytest.raises(ValueError, match="scorer 'shift' is known after the MLP"):
        vitrim.ATS(scorer="shift")
    model = vitrim.reduce_tokens(families.small_model("vit"), vitrim.ATS())
    with pytest.raises(ValueError, match="neither compiled nor exported"):
        torch.export.export(model, (families.small_images("vit"),))
