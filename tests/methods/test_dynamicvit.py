"""DynamicViT, and the masks that TPS shares: training computes what removal computes, losses, what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import vitrim
from conformance import families
from vitrim.core import predicted
from vitrim.core.tokens import Tokens
from vitrim.testing import leaving_blocks

IMAGES = families.small_images("vit", 3).double()


def learning(method: vitrim.Method, family: str = "vit") -> Any:
    """The reduced model in float64, in eval mode but for its predictors."""
    torch.manual_seed(0)
    model = vitrim.reduce_tokens(families.small_model(family).double(), method)
    model.double().eval()
    for block in model.blocks:
        if block.weights is not None:
            block.weights.train()
    return model


def by_rank(num_kept: list[int]) -> Any:
    """In place of the draw: the likeliest live patches stay, as many as at inference."""

    def draw(log_probability_BP2: Tensor, live_BP: Tensor) -> Tensor:
        score_BP = log_probability_BP2[:, :, 0].detach().masked_fill(live_BP.detach() < 0.5, -torch.inf)
        keep_BK = score_BP.topk(num_kept.pop(0), dim=1).indices
        return torch.zeros_like(score_BP).scatter(1, keep_BK, 1.0) * live_BP

    return draw


@pytest.mark.parametrize("family", ["vit", "gap", "dinov3"])
@pytest.mark.parametrize("method", [vitrim.DynamicViT, vitrim.TPS])
def test_masks_in_training_give_the_logits_of_removal(
    family: str, method: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = learning(method(keep_rate=0.6), family)
    images = families.small_images(family, 3).double()
    monkeypatch.setattr(predicted, "draw", by_rank(list(model.blocks.method.stages()[1:])))
    with torch.no_grad():
        masked = model(images)
        removed = model.eval()(images)
    assert (masked - removed).abs().max() < 1e-10
    assert not torch.allclose(removed, vitrim.restore(model)(images))


@pytest.mark.parametrize("method", [vitrim.DynamicViT, vitrim.TPS])
def test_the_predictors_learn_from_the_answer_and_from_the_share_that_stays(method: Any) -> None:
    model = learning(method(keep_rate=0.6))
    losses = vitrim.ClassificationTask(model)(IMAGES, torch.tensor([0, 1, 2]))
    for part in ("class", "ratio"):
        learned = [weight for block in model.blocks if block.weights for weight in block.weights.parameters()]
        grads = torch.autograd.grad(losses.parts[part], learned, retain_graph=True, allow_unused=True)
        assert all(grad is not None and grad.isfinite().all() for grad in grads)
        assert any(grad.abs().sum() > 0 for grad in grads if grad is not None)


def test_the_ratio_loss_is_twice_the_mean_square_of_what_each_stage_misses() -> None:
    method = vitrim.DynamicViT(keep_rate=(0.5, 1.0, 0.5), layers=(1, 2, 3), patches=4)
    decisions = (torch.tensor([[1.0, 1.0, 1.0, 0.0]]), torch.tensor([[1.0, 1.0, 0.0, 0.0]]))
    built = method.build(vitrim_spec())
    assert built.losses(decisions, torch.zeros(1, 2), lambda x: x.sum())["ratio"].item() == pytest.approx(
        2 * ((0.75 - 0.5) ** 2 + (0.5 - 0.25) ** 2) / 2
    )


def vitrim_spec() -> Any:
    from vitrim.backbones.reader import read_backbone

    return read_backbone(families.small_model("vit")).spec


def test_what_was_dropped_once_is_never_back() -> None:
    model = learning(vitrim.DynamicViT(keep_rate=0.6))
    seen: list[Tokens] = []
    model.blocks.collect_outputs(seen)
    model(IMAGES)
    decisions = seen[0].collected("dynamicvit")
    assert len(decisions) == 3
    for before, after in zip(decisions, decisions[1:], strict=False):
        assert set(after.unique().tolist()) <= {0.0, 1.0}
        assert (after <= before).all()


def test_by_threshold_an_image_keeps_the_same_patches_and_logits_in_any_batch() -> None:
    model = learning(vitrim.DynamicViT(threshold=0.5)).eval()
    for block in model.blocks:
        if block.weights is not None:  # new predictors hardly tell patches apart
            block.weights.out_conv[4].weight.data.mul_(100)
            block.weights.out_conv[4].bias.data.zero_()
    images = families.small_images("vit", 7).double()
    with torch.no_grad():
        alone = torch.cat([model(image.unsqueeze(0)) for image in images])
        for order in ([0, 1, 2, 3, 4, 5, 6], [6, 2, 0, 5, 1, 4, 3], [3, 5]):
            assert (model(images[order]) - alone[order]).abs().max() < 1e-10
    with torch.no_grad(), leaving_blocks(model) as seen:
        model(images)
    assert len(set(seen[1].num_tokens_B)) > 1


def test_a_threshold_of_one_leaves_the_likeliest_patch_and_of_zero_all() -> None:
    for threshold, wanted in ((1.0, 2), (0.0, 65)):
        model = learning(vitrim.DynamicViT(threshold=threshold)).eval()
        with torch.no_grad(), leaving_blocks(model) as seen:
            model(IMAGES)
        assert seen[3].num_tokens_B == (wanted,) * 3


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="threshold is a number from 0 to 1, or None"):
        vitrim.DynamicViT(threshold=1.5)
    with pytest.raises(ValueError, match="softmax_eps is a number from 0 to below 1"):
        vitrim.DynamicViT(softmax_eps=-1e-6)
    model = vitrim.reduce_tokens(families.small_model("vit"), vitrim.DynamicViT(threshold=0.5))
    with pytest.raises(ValueError, match="neither compiled nor exported"):
        torch.export.export(model, (families.small_images("vit"),))
