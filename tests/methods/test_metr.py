"""METR: heads that train along, their loss, and that inference does without them."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from exits import EXITS, Build, heard, images, metr
from torch import Tensor
from torch.nn.functional import cross_entropy

import vitrim
from vitrim.core.tokens import Tokens

TARGET = torch.tensor([3, 7])


def test_the_loss_by_hand() -> None:
    torch.manual_seed(0)
    final_BK, *exits = torch.randn(3, 2, 5, dtype=torch.float64)
    method, target = metr(temperature=2.0), torch.tensor([1, 4])
    losses = method.exits.losses(tuple(exits), final_BK, lambda logits_BK: cross_entropy(logits_BK, target))
    wanted, teacher = 0.0, (final_BK / 2).softmax(dim=1)
    for exit_BK in exits:
        student = (exit_BK / 2).softmax(dim=1)
        wanted += float((teacher * (teacher.log() - student.log())).sum() / 2 * 4)
    assert float(losses["distillation"]) == pytest.approx(0.15 * wanted, rel=1e-12)
    labels = sum(float(-x_BK.log_softmax(dim=1)[range(2), target].mean()) for x_BK in exits)
    assert float(losses["exits"]) == pytest.approx(0.15 * labels, rel=1e-12)
    other = metr(exit_weight=0.5, distill_weight=0, temperature=2.0).exits.losses(
        tuple(exits), final_BK, lambda logits_BK: cross_entropy(logits_BK, target)
    )
    assert float(other["exits"]) == pytest.approx(0.5 * labels)
    assert float(other["distillation"]) == 0


def test_the_final_output_teaches_and_is_not_taught() -> None:
    final_BK, exit_BK = (torch.randn(2, 5, requires_grad=True) for _ in range(2))
    losses = metr().exits.losses((exit_BK,), final_BK, lambda logits_BK: cross_entropy(logits_BK, torch.tensor([1, 4])))
    losses["distillation"].backward()
    assert final_BK.grad is None
    assert exit_BK.grad is not None
    assert exit_BK.grad.any()


def test_the_loss_reaches_heads_and_the_blocks_before_them(build: Build) -> None:
    model = vitrim.reduce_tokens(build(), metr()).train()
    logits_BK, aux = heard(model, images())
    losses = model.blocks.method.exits.losses(aux, logits_BK, lambda x_BK: cross_entropy(x_BK, TARGET))
    losses["exits"].backward()
    reached = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert {f"blocks.{layer}.method.exit.{part}.weight" for layer in EXITS for part in (0, 1, 3)} <= reached
    assert "blocks.4.mlp.fc2.weight" in reached
    assert "blocks.5.mlp.fc2.weight" not in reached
    assert "head.weight" not in reached


@pytest.mark.parametrize("rate", [0.6, 1.0])
def test_the_logits_are_those_of_its_method(build: Build, rate: float) -> None:
    inner = vitrim.EViT(keep_rate=rate, layers=(1, 3))
    plain = vitrim.reduce_tokens(build(), inner)
    model = vitrim.reduce_tokens(build(), metr(method=inner))
    assert torch.equal(model(images()), plain(images()))
    assert torch.equal(heard(model, images())[0], plain(images()))


def test_heads_run_only_where_somebody_listens(build: Build) -> None:
    model, calls = vitrim.reduce_tokens(build(), metr()), []
    for layer in EXITS:
        model.blocks[layer].weights.exit.register_forward_hook(lambda *_: calls.append(1))
    model(images())
    assert calls == []
    heard(model, images())
    assert len(calls) == 2
    model(images())
    assert len(calls) == 2


def test_checkpointing_with_listeners_gives_the_same_gradients(build: Build) -> None:
    model = vitrim.reduce_tokens(build(), metr()).train()
    twin = copy.deepcopy(model)
    twin.set_grad_checkpointing()
    for each in (model, twin):
        logits_BK, aux = heard(each, images())
        losses = each.blocks.method.exits.losses(aux, logits_BK, lambda x_BK: cross_entropy(x_BK, TARGET))
        (cross_entropy(logits_BK, TARGET) + losses["exits"] + losses["distillation"]).backward()
    for (name, mine), other in zip(model.named_parameters(), twin.parameters(), strict=True):
        assert mine.grad is not None, name
        assert other.grad is not None, name
        assert torch.equal(mine.grad, other.grad), name


def test_another_keep_rate_keeps_the_heads_and_changes_the_counts(build: Build) -> None:
    model = vitrim.reduce_tokens(build(), metr())
    head, before = model.blocks[2].weights.exit[1].weight, heard(model, images())[1]
    model.blocks.set_method(model.blocks.method.at_keep_rate(1.0))
    assert torch.equal(model(images()), build()(images()))
    after = heard(model, images())[1]
    assert len(after) == 2
    assert not torch.equal(after[0], before[0])
    assert model.blocks[2].weights.exit[1].weight is head
    model.blocks.set_method(model.blocks.method.at_keep_rate(0.6))
    assert torch.equal(heard(model, images())[1][0], before[0])


@pytest.mark.parametrize("rate", [0.5, 1.0])
def test_exits_are_where_the_method_reduces_at_whatever_rate(build: Build, rate: float) -> None:
    model = vitrim.reduce_tokens(build(), "metr", keep_rate=rate, layers=(1, 3))
    assert model.blocks.method.exits.layers == (1, 3)
    counts = (None, None, 9, None, 5, None)
    method = vitrim.METR(method=vitrim.EViT(tokens=counts, keep_rate=1.0, layers=(1,)))
    assert vitrim.reduce_tokens(model, method).blocks.method.exits.layers == (1, 2, 4)


@pytest.mark.parametrize(
    "inner",
    [
        vitrim.BeyondAttentive(layers=(1, 3)),
        vitrim.BeyondAttentive(layers=(1, 3), inattentive="mlp"),
        vitrim.TokenMergence(layers=(1, 3)),
        vitrim.ToMe(r=2),
    ],
    ids=lambda inner: inner.name,
)
def test_exits_stand_beside_any_method(build: Build, inner: vitrim.Method) -> None:
    model = vitrim.reduce_tokens(build(), metr(method=inner))
    logits_BK, aux = heard(model, images())
    assert torch.equal(logits_BK, vitrim.reduce_tokens(build(), inner)(images()))
    assert [exit_BK.shape for exit_BK in aux] == [(2, 10), (2, 10)]
    method, alone = model.blocks.method, inner.build(model.blocks.spec)
    assert [method.num_kept(i, 16) for i in range(6)] == [alone.num_kept(i, 16) for i in range(6)]
    assert (method.merges, method.has_keep_rate) == (alone.merges, alone.has_keep_rate)
    assert method.size_in_attention == alone.size_in_attention


@dataclass(frozen=True, kw_only=True)
class Learning(vitrim.EViT):
    """A method with a loss of its own, on the class token after block 0."""

    name = "learning"

    def after_block(self, layer: int, tokens: Tokens) -> Tokens:
        return tokens.collect(self.name, tokens.first_BC) if layer == 0 else tokens

    def losses(self, collected: tuple[Tensor, ...], logits_BK: Tensor, criterion: Any) -> dict[str, Tensor]:
        (first_BC,) = collected
        return {"own": first_BC.square().mean()}


def test_the_method_inside_has_its_own_losses_beside_the_exits(build: Build) -> None:
    inner = Learning(layers=(1, 3))
    alone = vitrim.ClassificationTask(vitrim.reduce_tokens(build(), inner))(images(), TARGET)
    both = vitrim.ClassificationTask(vitrim.reduce_tokens(build(), metr(method=inner)))(images(), TARGET)
    exits = vitrim.ClassificationTask(vitrim.reduce_tokens(build(), metr()))(images(), TARGET)
    assert list(both.parts) == ["class", "own", "exits", "distillation"]
    assert both.parts["own"] == alone.parts["own"]
    assert both.parts["exits"] > 0 and both.parts["exits"].shape == exits.parts["exits"].shape


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": 3}, "not a int"),
        ({"method": metr()}, "method .*without exits.*EViT"),
        ({"exit_weight": -1}, "exit_weight .*at least 0.*-1"),
        ({"distill_weight": float("nan")}, "distill_weight .*at least 0.*nan"),
        ({"exit_weight": "much"}, "exit_weight .*at least 0.*'much'"),
        ({"exit_weight": 10**400}, "exit_weight .*at least 0.*1000"),
        ({"temperature": 0}, "temperature .*above 0.*0"),
        ({"temperature": float("inf")}, "temperature .*above 0.*inf"),
        ({"exits": ()}, "exits.* layers"),
        ({"exits": (6,)}, r"exits.* layers \(6,\).*0 to 5"),
        ({"exits": (4, 2)}, "exits.* layers .*increasing"),
        ({"exits": None, "method": vitrim.ToMe(r=0)}, "tome .*exits"),
    ],
)
def test_settings_that_do_not_fit_are_refused(build: Build, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=rf"metr.*{message}"):
        vitrim.reduce_tokens(build(), metr(**settings))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"class_token": False, "global_pool": "avg"}, "class token"),
        ({"num_classes": 0}, "no classifier"),
    ],
)
def test_models_without_class_token_or_classifier_are_refused(
    build: Build, model: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=f"metr.*{message}"):
        vitrim.reduce_tokens(build(**model), metr(method=vitrim.EViT(layers=(1,), scorer="norm")))


def test_settings_stay_a_value() -> None:
    assert metr() == metr()
    assert metr(temperature=2) != metr()
