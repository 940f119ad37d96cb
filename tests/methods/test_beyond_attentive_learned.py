"""BAT's learned alternatives: a convolution and an MLP over the inattentive patches."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

import vitrim
from vitrim.backbones.reader import read_backbone
from vitrim.core.stack import Snapshot
from vitrim.measure.budget.formula import reduced_macs
from vitrim.measure.macs import count_macs

LEARNED = ("conv", "mlp")
LAYERS = (1, 2)
Build = Callable[..., VisionTransformer]
each = pytest.mark.parametrize("inattentive", LEARNED)


@pytest.fixture
def build(tiny_vit: Build) -> Build:
    def reduced(inattentive: str, **settings: Any) -> VisionTransformer:
        keep = {"keep_rate": settings.pop("keep_rate", 0.5), "layers": LAYERS}
        return vitrim.reduce_tokens(
            tiny_vit(depth=4, **settings), vitrim.BeyondAttentive(inattentive=inattentive, **keep)
        )

    return reduced


def images() -> Tensor:
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def snapshots(model: VisionTransformer) -> list[Snapshot]:
    found: list[Snapshot] = []
    model.blocks.record_into(found)
    model(images())
    model.blocks.record_into(None)
    return found


def learn(model: VisionTransformer) -> None:
    """Weights as training might leave them."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".method." in name:
                parameter.add_(torch.randn_like(parameter), alpha=0.3)


def test_untrained_the_mlp_is_the_average(build: Build) -> None:
    assert torch.equal(build("mlp")(images()), build("average")(images()))
    model = build("mlp")
    learn(model)
    assert not torch.allclose(model(images()), build("average")(images()))


@each
def test_untrained_features_are_what_the_trace_says(build: Build, inattentive: str) -> None:
    model = build(inattentive)
    x: list[Tensor] = []
    model.blocks[1].weights.register_forward_pre_hook(lambda _, inputs: x.append(inputs[0]))
    after, got = snapshots(model)[0].tokens, list[Tensor]()
    assert after.source_BP is not None
    assert after.weight_BP is not None
    total_BN = torch.zeros(after.x_BNC.shape[:2]).scatter_add(1, after.source_BP, after.weight_BP)
    torch.testing.assert_close(total_BN[:, 1:], torch.ones_like(total_BN[:, 1:]))
    if inattentive == "conv":
        got = [model.blocks[1].weights(x[0], model.blocks.method.split(1, 64).clusters)]
        spatial = snapshots(build("spatial"))[0].tokens
        assert torch.equal(after.source_BP, spatial.source_BP)
        assert got[0].shape == (2, model.blocks.method.split(1, 64).clusters, 48)


@each
def test_every_patch_flows_into_the_token_that_the_trace_names_and_no_other(moment: Any, inattentive: str) -> None:
    built = vitrim.BeyondAttentive(keep_rate=0.5, layers=(1,), inattentive=inattentive, match=False, clusters=3)
    built = built.build(moment.spec)
    weights = built.make_weights(1, moment.spec)
    assert weights is not None
    bound = built.with_weights(weights.double().requires_grad_(False))
    x_BNC = moment.tokens.x_BNC.clone().requires_grad_()
    out = bound.after_attention(1, moment.tokens._replace(x_BNC=x_BNC), moment.attention)
    for token in range(2, out.x_BNC.shape[1]):
        (gradient,) = torch.autograd.grad(out.x_BNC[0, token].sum(), x_BNC, retain_graph=True)
        reached = gradient[0, 2:].abs().sum(dim=1) > 0
        assert torch.equal(reached, out.source_BP[0] == token)


@each
@pytest.mark.parametrize("keep_rate", [0.3, 0.5, 0.9, 1.0])
def test_the_formula_equals_the_counter_and_counts_are_those_of_the_other_strategies(
    tiny_vit: Build, inattentive: str, keep_rate: float
) -> None:
    model = tiny_vit(depth=4)
    spec, unreduced = read_backbone(model).spec, count_macs(model)
    method = vitrim.BeyondAttentive(keep_rate=keep_rate, layers=LAYERS, inattentive=inattentive)
    assert count_macs(vitrim.reduce_tokens(model, method)) == reduced_macs(unreduced, spec, method)
    built, average = method.build(spec), vitrim.BeyondAttentive(keep_rate=keep_rate, layers=LAYERS).build(spec)
    assert [built.split(1, n) for n in range(1, 65)] == [average.split(1, n) for n in range(1, 65)]


@each
def test_weights_fit_any_keep_rate_and_resolution(build: Build, inattentive: str) -> None:
    model = build(inattentive, dynamic_img_size=True)
    learn(model)
    state = model.state_dict()
    for rate in (1.0, 0.95, 0.7, 0.2):
        model.blocks.set_method(model.blocks.method.at_keep_rate(rate))
        fresh = build(inattentive, dynamic_img_size=True, keep_rate=rate)
        fresh.load_state_dict(state)
        for size in ((32, 32), (20, 44)):
            x = torch.randn(2, 3, *size)
            assert model(x).isfinite().all()
            assert torch.equal(model(x), fresh(x))


@each
def test_training_moves_every_weight_and_lowers_the_loss(build: Build, inattentive: str) -> None:
    model = build(inattentive).double().requires_grad_(False).train()
    learned = {name: p.requires_grad_() for name, p in model.named_parameters() if ".method." in name}
    assert {name.split(".")[1] for name in learned} == {"1", "2"}
    before = {name: p.detach().clone() for name, p in learned.items()}
    target = torch.randn(2, 10, generator=torch.Generator().manual_seed(1))
    optimiser, losses = torch.optim.SGD(learned.values(), lr=0.05), []
    for _ in range(6):
        loss = (model(images().double()) - target).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    for name, parameter in learned.items():
        assert not torch.equal(parameter, before[name]), name


@each
def test_a_model_that_learned_copies_and_runs_in_half_precision(build: Build, inattentive: str) -> None:
    model = build(inattentive)
    learn(model)
    assert torch.equal(copy.deepcopy(model)(images()), model(images()))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model(images()).isfinite().all()
    assert model.bfloat16()(images().bfloat16()).dtype == torch.bfloat16


@each
def test_a_method_swapped_in_without_weights_says_so(build: Build, inattentive: str) -> None:
    model = build("average")
    model.blocks.set_method(vitrim.BeyondAttentive(inattentive=inattentive, layers=LAYERS))
    with pytest.raises(ValueError, match=f"block 1 .*weights.*'{inattentive}'.*reduce_t"):
        model(images())
