"""Multiply-adds: the counter sees everything, the formula equals the counter, and targets are met exactly."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils import flop_counter

import vitrim
from vitrim.backbones.reader import read_backbone
from vitrim.core.method import Method
from vitrim.measure import macs
from vitrim.measure.macs import (
    block_macs,
    count_macs,
    method_for_keep_rate,
    method_for_macs,
    reduced_macs,
    token_counts,
)

# Keep rate, tokens after blocks 3, 6, 9 with and without fusion, and GMACs of DeiT-T, S, B with, and S without fusion.
TABLE = [
    (0.9, (179, 163, 148), (178, 161, 145), (1.094, 4.026, 15.40), 3.992),
    (0.8, (159, 129, 105), (158, 127, 102), (0.944, 3.480, 13.33), 3.447),
    (0.7, (140, 100, 72), (139, 98, 69), (0.822, 3.032, 11.62), 3.000),
    (0.6, (120, 74, 46), (119, 72, 44), (0.717, 2.638, 10.09), 2.611),
    (0.5, (100, 52, 28), (99, 50, 26), (0.630, 2.311, 8.82), 2.284),
]
SIZES = ("tiny", "small", "base")
SMALL_R = {"tome": {"r": 4}}  # the default takes too much of a tiny model


@pytest.fixture(scope="module")
def deit():
    """Spec and counted multiply-adds of the unreduced DeiT models at 224 pixels."""
    found = {}
    for size in SIZES:
        model = timm.create_model(f"deit_{size}_patch16_224")
        found[size] = read_backbone(model).spec, count_macs(model)
    return found


@pytest.mark.parametrize(("size", "gmacs"), [("tiny", 1.26), ("small", 4.60), ("base", 17.6)])
def test_the_counter_gives_the_published_macs_of_deit(deit, size, gmacs):
    assert deit[size][1] / 1e9 == pytest.approx(gmacs, rel=0.006)  # 1.2537, rounded up in the literature


@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"keep {row[0]}")
def test_evit_on_deit_has_the_known_token_counts_and_macs(deit, row):
    keep_rate, fused, dropped, gmacs, small_dropped = row
    for fuse, wanted in ((True, fused), (False, dropped)):
        counts = token_counts(deit["small"][0], vitrim.EViT(keep_rate=keep_rate, fuse=fuse))
        assert (counts[2], counts[3], counts[6], counts[9]) == (197, *wanted)
    for size, wanted in zip(SIZES, gmacs, strict=True):
        spec, unreduced = deit[size]
        assert reduced_macs(unreduced, spec, vitrim.EViT(keep_rate=keep_rate)) / 1e9 == pytest.approx(wanted, rel=5e-3)
    spec, unreduced = deit["small"]
    found = reduced_macs(unreduced, spec, vitrim.EViT(keep_rate=keep_rate, fuse=False)) / 1e9
    assert found == pytest.approx(small_dropped, rel=5e-3)


@pytest.mark.parametrize("fuse", [True, False])
def test_the_formula_equals_the_counter_on_deit_tiny(deit, fuse):
    spec, unreduced = deit["tiny"]
    method = vitrim.EViT(keep_rate=0.7, fuse=fuse)
    model = vitrim.reduce_tokens(timm.create_model("deit_tiny_patch16_224"), method)
    assert count_macs(model) == reduced_macs(unreduced, spec, method)


@pytest.mark.parametrize("name", [name for name in vitrim.list_methods() if not vitrim.method_from(name).varies])
def test_the_formula_is_within_half_a_percent_of_the_counter_for_every_method(tiny_vit, name):
    model = tiny_vit()
    spec, unreduced = read_backbone(model).spec, count_macs(model)
    method = vitrim.method_from(name, **SMALL_R.get(name, {}))
    formula = reduced_macs(unreduced, spec, method)
    assert count_macs(vitrim.reduce_tokens(model, method)) == pytest.approx(formula, rel=5e-3)
    assert formula < unreduced


@pytest.mark.parametrize(
    "settings",
    [{"reg_tokens": 3}, {"class_token": False, "global_pool": "avg"}, {"qk_norm": True, "init_values": 1e-5}],
    ids=str,
)
def test_the_formula_equals_the_counter_with_other_prefixes_and_blocks(tiny_vit, settings):
    model = tiny_vit(**settings)
    spec, unreduced = read_backbone(model).spec, count_macs(model)
    method = vitrim.EViT(keep_rate=0.5, scorer="norm", layers=(1, 4))
    assert count_macs(vitrim.reduce_tokens(model, method)) == reduced_macs(unreduced, spec, method)


def test_the_formula_follows_the_resolution(tiny_vit):
    model = tiny_vit(dynamic_img_size=True)
    spec, unreduced = read_backbone(model).spec, count_macs(model, (3, 48, 64))
    vitrim.reduce_tokens(model, "evit", keep_rate=0.6)
    assert count_macs(model, (3, 48, 64)) == reduced_macs(unreduced, spec, vitrim.EViT(keep_rate=0.6), 12 * 16)
    assert token_counts(spec, None, 12 * 16) == (193,) * 12


def test_blocks_alone_are_the_sum_of_their_products(tiny_vit):
    spec = read_backbone(tiny_vit()).spec
    attention, mlp = 65 * 4 * 48 * 48 + 2 * 65 * 65 * 48, 65 * 8 * 48 * 48
    assert block_macs(spec, None) == 12 * (attention + mlp)


class Attend(nn.Module):
    def __init__(self, bias):
        super().__init__()
        self.bias = bias

    def forward(self, x_BCHW):
        q = x_BCHW.flatten(2).unsqueeze(1)
        return F.scaled_dot_product_attention(q, q, q, torch.zeros(1, 1, 1, 8) if self.bias else None)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("registered", [True, False])
def test_fused_attention_is_counted_even_where_torch_passes_over_it(monkeypatch, bias, registered):
    if not registered:  # as in torch before 2.15
        flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        monkeypatch.delitem(flop_counter.flop_registry, flash, raising=False)
    assert count_macs(Attend(bias), (8, 4, 8)) == 2 * 8 * 8 * 32


def test_multi_head_attention_is_counted_and_its_fast_path_comes_back():
    class Attends(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(32, 4, batch_first=True)

        def forward(self, x_BCHW):
            x = x_BCHW.flatten(2)
            return self.attention(x, x, x, need_weights=False)[0]

    assert torch.backends.mha.get_fastpath_enabled()
    assert count_macs(Attends(), (8, 4, 8)) == 4 * 8 * 32 * 32 + 2 * 8 * 8 * 32
    assert torch.backends.mha.get_fastpath_enabled()


def test_counting_leaves_modes_and_precision_alone(tiny_vit):
    model = tiny_vit().train()
    model.blocks[3].eval()
    modes = [module.training for module in model.modules()]
    wanted = count_macs(model)
    assert [module.training for module in model.modules()] == modes
    assert count_macs(model.bfloat16()) == wanted


def brute_force(model, target, candidates) -> int:
    """The largest multiply-adds up to the target, over all candidates that the model can take."""
    spec, unreduced = read_backbone(model).spec, count_macs(model)
    found = []
    for method in candidates:
        try:
            found.append(reduced_macs(unreduced, spec, method))
        except ValueError:
            continue
    return max(value for value in found if value <= target)


@pytest.mark.parametrize("share", [0.98, 0.8, 0.61, 0.5])
@pytest.mark.parametrize("name", ["evit", "evit-nofuse", "beyond_attentive", "evit+bat", "token_mergence", "tome"])
def test_a_target_is_met_by_the_best_of_all_settings(tiny_vit, monkeypatch, name, share):
    monkeypatch.setattr(macs, "RATE_STEPS", 500)
    model = tiny_vit()
    spec, unreduced = read_backbone(model).spec, count_macs(model)
    target = int(unreduced * share)
    if name == "tome":
        candidates = [vitrim.ToMe(r=macs._spread(total, spec)) for total in range(12 * 32)]
    else:
        candidates = [vitrim.method_from(name, keep_rate=k / 500) for k in range(1, 501)]
    method = method_for_macs(name, model, target / 1e9)
    assert reduced_macs(unreduced, spec, method) == brute_force(model, target, candidates)


def test_a_target_that_a_round_keep_rate_meets_gives_that_rate(deit):
    spec, unreduced = deit["small"]
    for keep_rate in (0.9, 0.7, 0.5, 1.0):
        for name in ("evit", "evit-nofuse", "random"):
            method = vitrim.method_from(name, keep_rate=keep_rate)
            target = reduced_macs(unreduced, spec, method)
            assert macs._solve(vitrim.method_from(name), spec, unreduced, target, {}) == method


def test_the_solved_method_is_what_the_counter_sees(tiny_vit):
    for name in ("evit", "tome"):
        model = tiny_vit()
        target = 0.7 * count_macs(model) / 1e9
        vitrim.reduce_tokens(model, method_for_macs(name, model, target))
        assert 0.97 * target < count_macs(model) / 1e9 <= target


def test_a_target_keeps_the_other_settings_and_reads_a_reduced_model_as_unreduced(tiny_vit):
    model = tiny_vit()
    target = 0.8 * count_macs(model) / 1e9
    method = method_for_macs("evit", model, target, layers=(2, 5), fuse=False)
    assert (method.layers, method.fuse) == ((2, 5), False)
    vitrim.reduce_tokens(model, "evit", keep_rate=0.5)
    assert method_for_macs("evit", model, target, layers=(2, 5), fuse=False) == method


def test_tome_merges_half_of_the_patches_where_an_even_share_is_more(tiny_vit):
    model = tiny_vit()
    method = method_for_macs("tome", model, 0.45 * count_macs(model) / 1e9)
    counts = [count - 1 for count in token_counts(read_backbone(model).spec, method)]
    for removed, before in zip(method.r, [64, *counts], strict=False):
        assert removed in (method.r[0], method.r[0] - 1) or removed == before // 2 < method.r[0]
    assert method.r[0] > method.r[-1] + 1
    assert counts[-1] >= 1


def test_tome_spreads_its_merges_evenly_with_more_in_the_first_blocks(tiny_vit):
    model = tiny_vit()
    r = method_for_macs("tome", model, 0.75 * count_macs(model) / 1e9).r
    assert len(r) == 12
    assert max(r) - min(r) <= 1
    assert list(r) == sorted(r, reverse=True)


@pytest.mark.parametrize("name", ["evit", "tome"])
@pytest.mark.parametrize("share", [1.01, 0.01])
def test_a_target_out_of_reach_is_an_error_with_the_range(tiny_vit, name, share):
    model = tiny_vit()
    with pytest.raises(ValueError, match=rf"{name} cannot bring .* to .* GMACs: it reaches 0\.\d+ to 0\.\d+") as error:
        method_for_macs(name, model, share * count_macs(model) / 1e9)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("gmacs", [0.0, -1.0, float("nan"), float("inf")])
def test_a_target_that_is_no_amount_is_an_error(tiny_vit, gmacs):
    with pytest.raises(ValueError, match="positive number of GMACs"):
        method_for_macs("evit", tiny_vit(), gmacs)


@pytest.mark.parametrize(("name", "setting"), [("evit", {"keep_rate": 0.5}), ("tome", {"r": 3})])
def test_what_is_solved_for_cannot_be_set(tiny_vit, name, setting):
    with pytest.raises(ValueError, match=f"{next(iter(setting))} is what a MACs target solves for"):
        method_for_macs(name, tiny_vit(), 0.01, **setting)


def test_settings_that_do_not_fit_are_errors_of_the_method(tiny_vit):
    with pytest.raises(ValueError, match="layers"):
        method_for_macs("evit", tiny_vit(), 0.01, layers=(3, 30))
    with pytest.raises(ValueError, match="no method is called 'nothing'"):
        method_for_macs("nothing", tiny_vit(), 0.01)


def test_a_method_without_a_number_to_solve_for_is_an_error(tiny_vit, monkeypatch):
    @dataclass(frozen=True)
    class Fixed(Method):
        name = "fixed"

    monkeypatch.setattr(macs, "method_from", lambda *_: Fixed())
    with pytest.raises(ValueError, match="fixed has neither a keep rate nor r"):
        method_for_macs("fixed", tiny_vit(), 0.01)


def test_a_keep_rate_gives_the_method_itself_where_it_has_one(tiny_vit):
    assert method_for_keep_rate("evit", tiny_vit(), 0.5, fuse=False) == vitrim.EViT(keep_rate=0.5, fuse=False)


@pytest.mark.parametrize("keep_rate", [1.0, 0.9, 0.5])
@pytest.mark.parametrize("settings", [{}, {"class_token": False, "global_pool": "avg"}], ids=str)
def test_tome_at_a_keep_rate_costs_what_evit_costs(tiny_vit, keep_rate, settings):
    model = tiny_vit(**settings)
    tome = method_for_keep_rate("tome", model, keep_rate, prop_attn=False)
    assert tome.prop_attn is False
    scorer = "norm" if settings else "cls"
    wanted = count_macs(vitrim.reduce_tokens(tiny_vit(**settings), "evit", keep_rate=keep_rate, scorer=scorer))
    found = count_macs(vitrim.reduce_tokens(model, tome))
    assert 0.97 * wanted < found <= wanted
    if keep_rate == 1.0:
        assert found == wanted


@pytest.mark.parametrize("keep_rate", [0.0, 1.5])
def test_a_keep_rate_that_is_none_is_an_error_for_tome_too(tiny_vit, keep_rate):
    with pytest.raises(ValueError, match=f"above 0 and at most 1, not {keep_rate}"):
        method_for_keep_rate("tome", tiny_vit(), keep_rate)


def test_an_attention_pool_is_counted_too() -> None:
    settings = {"img_size": 32, "patch_size": 4, "embed_dim": 48, "depth": 4, "num_heads": 3, "num_classes": 10}
    pooled = timm.models.VisionTransformer(**settings, class_token=False, global_pool="map")
    plain = timm.models.VisionTransformer(**settings, class_token=False, global_pool="avg")
    assert count_macs(pooled) > count_macs(plain)
