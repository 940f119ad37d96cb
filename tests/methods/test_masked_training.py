"""Methods that learn how much to reduce: masks in training compute what removal computes, and have gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import vitrim
from conformance import families
from vitrim.core.mask import Mask
from vitrim.methods.dtem.soft import soft_groups
from vitrim.models.lvvit import LVViT

FAMILIES = ("vit", "gap", "dinov3")


def learning(model: Any, method: vitrim.Method) -> Any:
    """The reduced model in float64, in eval mode but for what the method learns."""
    vitrim.reduce_tokens(model.double(), method)
    model.double().eval()
    for block in model.blocks:
        if block.weights is not None:
            block.weights.train()
    return model


def test_a_mask_gives_the_softmax_over_what_is_live_however_large_the_others_are() -> None:
    logits_BHNN = torch.randn(2, 3, 5, 5, dtype=torch.float64)
    logits_BHNN[..., 3] += 2000
    live_BN = torch.tensor([1.0, 1, 1, 0, 1], dtype=torch.float64).repeat(2, 1).requires_grad_()
    masked = Mask(live_BN).softmax(logits_BHNN, 0)
    kept = [0, 1, 2, 4]
    torch.testing.assert_close(masked[..., kept], logits_BHNN[..., kept].softmax(dim=-1))
    assert (masked[..., 3] == 0).all()
    masked.square().sum().backward()
    assert live_BN.grad is not None and live_BN.grad.isfinite().all()
    own = Mask(live_BN.detach(), sees_itself=True).softmax(logits_BHNN[:, :, 2:4], 2)
    assert (own[..., 0, 3] == 0).all() and (own[..., 1, 3] == 1).all()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("thresholds", [(0.8, 0.0), (1.0, 0.03), (0.85, 0.02)])
@torch.no_grad()
def test_ltmp_trains_the_function_that_it_is_at_inference(family: str, thresholds: tuple[float, float]) -> None:
    merge, prune = thresholds
    model = learning(
        families.small_model(family), vitrim.LTMP(merge_threshold=merge, prune_threshold=prune, target=0.7)
    )
    images = families.small_images(family, 3).double()
    masked = model(images)
    removed = model.eval()(images)
    assert (masked - removed).abs().max() < 1e-10
    assert not torch.allclose(removed, vitrim.restore(model)(images))


def test_ltmps_thresholds_get_a_gradient_and_the_cost_pulls_them_towards_the_target() -> None:
    model = learning(families.small_model("vit"), vitrim.LTMP(merge_threshold=0.95, prune_threshold=0.01, target=0.3))
    model.requires_grad_(False)
    learned = [weight.requires_grad_() for block in model.blocks for weight in block.weights.parameters()]
    losses = vitrim.ClassificationTask(model)(families.small_images("vit", 3).double(), torch.tensor([0, 1, 2]))
    losses.loss.backward()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in learned)
    cost = torch.autograd.grad(
        vitrim.ClassificationTask(model)(families.small_images("vit", 3).double(), torch.tensor([0, 1, 2])).parts[
            "cost"
        ],
        learned,
    )
    assert all(float(merge) >= 0 for merge in cost[::2]), "a lower merge threshold merges more"
    assert all(float(prune) <= 0 for prune in cost[1::2]), "a higher prune threshold drops more"
    assert any(map(bool, cost))


@torch.no_grad()
def test_low_temperatures_make_dtems_soft_merging_what_it_is_at_inference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vitrim.methods.dtem.soft.DRAW_TEMPERATURE", 1e-5)
    model = learning(families.small_model("vit"), vitrim.DTEM(r=3, clamp=True, learns=True))
    images = families.small_images("vit", 3).double()
    soft = model(images)
    hard = model.eval()(images)
    assert (soft - hard).abs().max() < 1e-6
    assert not torch.allclose(hard, vitrim.restore(model)(images))


def test_soft_groups_are_the_draws_one_by_one() -> None:
    similarity_BAM = torch.randn(2, 4, 5, dtype=torch.float64)
    given = soft_groups(similarity_BAM, 2)
    for image in range(2):
        score = similarity_BAM[image] / 0.1
        allowed = torch.zeros_like(score)
        for a in range(4):
            allowed[a, score[a].argsort(descending=True)[:3]] = 1
        total = torch.zeros_like(score)
        for _ in range(2):
            weight = (score / 0.1 - (score / 0.1)[allowed > 0].max()).exp() * allowed
            drawn = weight / weight.sum()
            total += drawn
            score = score + (1 - drawn.sum(dim=1, keepdim=True)).clamp(min=1.1920928955078125e-07).log()
        torch.testing.assert_close(given[image], total / total.sum(dim=1, keepdim=True).clamp(min=1))


def test_dtems_metric_learns_and_the_size_of_all_patches_stays() -> None:
    model = learning(families.small_model("vit"), vitrim.DTEM(r=3, clamp=True, learns=True))
    seen: list[Tensor] = []
    handle = model.blocks[-1].register_forward_hook(lambda *_: None)
    outputs: list[Any] = []
    model.blocks.collect_outputs(outputs)
    loss = model(families.small_images("vit", 2).double()).square().sum()
    handle.remove()
    seen.append(outputs[0].live_BN)
    model.blocks.collect_outputs(None)
    loss.backward()
    num_patches = seen[0].shape[1] - 1
    torch.testing.assert_close(seen[0][:, 1:].sum(dim=1), torch.full((2,), float(num_patches), dtype=torch.float64))
    gradients = [block.weights.metric.weight.grad for block in model.blocks][:-1]  # nothing reads the last merge
    assert all(bool(each.abs().max() > 0) for each in gradients)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_diffrates_search_reduces_to_its_counts_at_inference(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vitrim.methods.diffrate.method.EPS", 0.0)
    scorer: Any = "received"
    model = learning(families.small_model(family), vitrim.DiffRate(target=0.7, scorer=scorer, prop_attn=False))
    generator = torch.Generator().manual_seed(0)
    for block in model.blocks:
        for weight in () if block.weights is None else block.weights.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) * 2 - torch.arange(len(weight)) * 0.2)
    images = families.small_images(family, 3).double()
    masked = model(images)
    assert (masked - model.eval()(images)).abs().max() < 1e-10
    found: Any = model.blocks.method.settled([block.weights for block in model.blocks])
    assert found.target is None and found.merged_to[-1] < found.merged_to[0] == found.patches
    assert (masked - vitrim.reduce_tokens(model, found)(images)).abs().max() < 1e-10


def test_a_head_that_reads_every_token_and_targets_out_of_reach_are_refused() -> None:
    lvvit = LVViT(img_size=32, patch_size=8, embed_dim=24, depth=4, num_heads=3, num_classes=5, stem_channels=8)
    for method in (vitrim.LTMP(target=0.5), vitrim.DiffRate(target=0.5), vitrim.DTEM(r=1, learns=True)):
        with pytest.raises(ValueError, match="training masks tokens"):
            vitrim.reduce_tokens(lvvit, method)
    with pytest.raises(ValueError, match="pools all alike"):
        vitrim.reduce_tokens(families.small_model("gap"), vitrim.DTEM(r=1, learns=True))
    for wrong in (0, 1, 1.5, True, "half"):
        with pytest.raises(ValueError, match="target is a share"):
            vitrim.LTMP(target=wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="leave pruned_to"):
        vitrim.DiffRate(target=0.5, strength=2.0)


def test_weights_are_frozen_until_a_target_is_set() -> None:
    for method in (vitrim.LTMP(), vitrim.DTEM(r=1)):
        model = vitrim.reduce_tokens(families.small_model("vit"), method)
        learned: list[nn.Parameter] = [weight for block in model.blocks for weight in block.weights.parameters()]
        assert learned and not any(weight.requires_grad for weight in learned)
