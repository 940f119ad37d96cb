"""Methods act on LV-ViT as on any other model."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor

import vitrim
from every_method import FIXED, amount
from vitrim.backbones.reader import find_stack, read_backbone
from vitrim.core.stack import TokenStack
from vitrim.loading.build import build_model
from vitrim.measure.budget.formula import reduced_macs, token_counts
from vitrim.measure.budget.targets import method_for_keep_rate, method_for_macs
from vitrim.measure.macs import count_macs
from vitrim.models.lvvit import LVViT
from vitrim.testing import leaving_blocks

EVERY_METHOD = pytest.mark.parametrize("name", FIXED)


def small(**more: Any) -> LVViT:
    torch.manual_seed(0)
    settings = {"img_size": 64, "patch_size": 8, "embed_dim": 24, "depth": 5, "num_heads": 3, "num_classes": 7}
    model = LVViT(**(settings | {"stem_channels": 8} | more))
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.2)  # attention far from uniform
    return model.eval()


def method(name: str) -> vitrim.Method:
    return vitrim.create_method(name, **amount(name, per_block=5))


@pytest.fixture
def images() -> Tensor:
    return torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def test_the_facts_are_read() -> None:
    spec = read_backbone(small()).spec
    assert (spec.num_prefix, spec.has_cls, spec.pools_patches, spec.num_patches) == (1, True, False, 64)
    assert (spec.depth, spec.channels, spec.num_heads, spec.num_classes) == (5, 24, 3, 7)
    assert (spec.attention_macs, spec.mlp_macs, spec.head_macs) == (4 * 24 * 24, 6 * 24 * 24, 24 * 7)


def test_evit_on_lvvit_s_has_the_published_layers_counts_and_macs() -> None:
    with torch.device("meta"):
        model = build_model("lvvit_small")
    spec, unreduced = read_backbone(model).spec, count_macs(model)
    assert spec.name == "lvvit_small"
    assert vitrim.EViT().build(spec).layers == (4, 8, 12)
    assert token_counts(spec, vitrim.EViT(keep_rate=0.7))[::4] == (197, 140, 100, 72)
    for keep_rate, published in ((0.7, 4.7), (0.5, 3.9)):
        gmacs = reduced_macs(unreduced, spec, vitrim.EViT(keep_rate=keep_rate)) / 1e9
        assert gmacs == pytest.approx(published, rel=0.01)
    assert count_macs(vitrim.reduce_tokens(model, "evit", keep_rate=0.7)) / 1e9 == pytest.approx(4.707, abs=5e-4)


@pytest.mark.parametrize("skip_lam", [1.0, 2.0, 3.0])
def test_keeping_everything_changes_no_bit(images: Tensor, skip_lam: float) -> None:
    model = small(skip_lam=skip_lam, qkv_bias=True)
    before = model(images)
    assert torch.equal(vitrim.reduce_tokens(model, vitrim.EViT(keep_rate=1.0))(images), before)


@EVERY_METHOD
def test_every_method_reduces_and_leaves_no_trace(images: Tensor, name: str) -> None:
    model = small()
    keys, before = list(model.state_dict()), model(images)
    stack = vitrim.reduce_tokens(model, method(name)).blocks
    assert isinstance(stack, TokenStack)
    with leaving_blocks(model) as seen:
        assert not torch.allclose(model(images), before)
    counts = tuple(tokens.x_BNC.shape[1] for tokens in seen)
    assert counts == token_counts(stack.spec, stack.method)
    assert counts[-1] < 65
    assert [key for key in model.state_dict() if ".method." not in key] == keys
    vitrim.restore(model)
    assert list(model.state_dict()) == keys
    assert torch.equal(model(images), before)


@EVERY_METHOD
def test_the_formula_is_within_half_a_percent_of_the_counter(name: str) -> None:
    model = small()
    spec, unreduced = read_backbone(model).spec, count_macs(model)
    predicted = reduced_macs(unreduced, spec, method(name))
    assert predicted < unreduced
    assert count_macs(vitrim.reduce_tokens(model, method(name))) == pytest.approx(predicted, rel=5e-3)


@pytest.mark.parametrize("fuse", [True, False])
def test_the_formula_equals_the_counter_for_evit(fuse: bool) -> None:
    model, evit = small(), vitrim.EViT(keep_rate=0.5, fuse=fuse)
    predicted = reduced_macs(count_macs(model), read_backbone(model).spec, evit)
    assert count_macs(vitrim.reduce_tokens(model, evit)) == predicted


def test_a_target_in_macs_is_met_from_below() -> None:
    model = small()
    target = 0.9 * count_macs(model) / 1e9
    solved = method_for_macs(model, "evit", target)
    assert 0.98 * target < count_macs(vitrim.reduce_tokens(model, solved)) / 1e9 <= target
    assert method_for_keep_rate(model, "tome", 0.7).build(find_stack(model).stack.spec)


def test_the_maximum_is_over_the_tokens_that_are_left(images: Tensor) -> None:
    model = vitrim.reduce_tokens(small(), vitrim.EViT(keep_rate=0.5, fuse=False))
    features = model.forward_features(images)
    assert features.shape[1] == 1 + 8
    wanted = model.head(features[:, 0]) + 0.5 * model.aux_head(features[:, 1:]).amax(dim=1)
    assert torch.equal(model(images), wanted)


def test_patches_can_be_traced(images: Tensor) -> None:
    model = vitrim.reduce_tokens(small(), vitrim.EViT(keep_rate=0.5, fuse=False))
    with vitrim.trace(model) as trace:
        model(images)
    assert trace.grid == (8, 8)
    assert [int((layer.source_BP >= 0).sum(dim=1)[0]) for layer in trace.layers] == [32, 16, 8]


def test_copies_and_pickles_of_a_reduced_model_compute_the_same(images: Tensor) -> None:
    model = vitrim.reduce_tokens(small(), vitrim.EViT(keep_rate=0.5))
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other(images), model(images))


def test_checkpointed_gradients_are_the_same_with_fewer_tokens(images: Tensor) -> None:
    def gradient(enable: bool) -> Tensor:
        model = vitrim.reduce_tokens(small(), vitrim.EViT(keep_rate=0.5)).train()
        model.set_grad_checkpointing(enable)
        model(images).square().mean().backward()
        return model.blocks[0].attn.qkv.weight.grad

    assert gradient(False).abs().max() > 0
    torch.testing.assert_close(gradient(True), gradient(False))


@pytest.mark.parametrize(("call", "argument"), [("reset_classifier", 3), ("set_input_size", 32)])
def test_what_would_go_wrong_while_reduced_refuses_until_restored(call: str, argument: int) -> None:
    model = vitrim.reduce_tokens(small(), vitrim.EViT())
    with pytest.raises(RuntimeError, match="tokens are reduced"):
        getattr(model, call)(argument)
    getattr(vitrim.restore(model), call)(argument)
