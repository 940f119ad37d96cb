"""Multiply-adds: the counter sees everything, and the formula agrees with it."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

import vitrim
from every_method import FIXED, amount
from vitrim.backbones.reader import read_backbone
from vitrim.measure.budget.formula import block_macs, reduced_macs, token_counts
from vitrim.measure.macs import count_macs

# Keep rate, tokens after blocks 3, 6, 9 with and without fusion, and GMACs of DeiT-T, S, B with, and S without fusion.
TABLE = [
    (0.9, (179, 163, 148), (178, 161, 145), (1.094, 4.026, 15.40), 3.992),
    (0.8, (159, 129, 105), (158, 127, 102), (0.944, 3.480, 13.33), 3.447),
    (0.7, (140, 100, 72), (139, 98, 69), (0.822, 3.032, 11.62), 3.000),
    (0.6, (120, 74, 46), (119, 72, 44), (0.717, 2.638, 10.09), 2.611),
    (0.5, (100, 52, 28), (99, 50, 26), (0.630, 2.311, 8.82), 2.284),
]


SIZES = ("tiny", "small", "base")


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


@pytest.mark.parametrize("name", FIXED)
def test_the_formula_is_within_half_a_percent_of_the_counter_for_every_method(tiny_vit, name):
    model = tiny_vit()
    spec, unreduced = read_backbone(model).spec, count_macs(model)
    method = vitrim.create_method(name, **amount(name, per_block=4))
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


def test_counting_leaves_modes_and_precision_alone(tiny_vit):
    model = tiny_vit().train()
    model.blocks[3].eval()
    modes = [module.training for module in model.modules()]
    wanted = count_macs(model)
    assert [module.training for module in model.modules()] == modes
    assert count_macs(model.bfloat16()) == wanted


def test_an_attention_pool_is_counted_too() -> None:
    settings = {"img_size": 32, "patch_size": 4, "embed_dim": 48, "depth": 4, "num_heads": 3, "num_classes": 10}
    pooled = timm.models.VisionTransformer(**settings, class_token=False, global_pool="map")
    plain = timm.models.VisionTransformer(**settings, class_token=False, global_pool="avg")
    assert count_macs(pooled) > count_macs(plain)


@pytest.mark.parametrize("size", ["abc", 7, (3, 32), (3, 32, 0), (3, 32.0, 32), (3, None, 32)])
def test_a_size_that_is_none_is_refused(tiny_vit, size):
    with pytest.raises(ValueError, match=r"size.*channels, height and width"):
        count_macs(tiny_vit(), size)


@pytest.mark.parametrize("images", ["x", [], torch.ones(3, 32, 32), torch.ones(0, 3, 32, 32)])
def test_images_that_are_none_are_refused(tiny_vit, images):
    with pytest.raises(ValueError, match="one image"):
        count_macs(tiny_vit(), images_ICHW=images)


def test_counting_draws_nothing_from_the_callers_generators(tiny_vit):
    model = tiny_vit()
    before = torch.get_rng_state()
    count_macs(model)
    vitrim.benchmark({"a": model}, (3, 32, 32), batch_size=1, rounds=1, warmup=0)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    "measure",
    [
        lambda: count_macs(None, (3, 8, 8)),
        lambda: vitrim.cls_quality("deit", []),
        lambda: vitrim.record_exits(7, []),
        lambda: vitrim.method_for_keep_rate({}, "evit", 0.5),
        lambda: vitrim.benchmark({"a": None}),
        lambda: vitrim.evaluate_folder(nn.Linear, "nowhere"),
    ],
)
def test_what_is_no_model_is_refused_by_whatever_measures(measure):
    with pytest.raises(TypeError, match=r"torch\.nn\.Module"):
        measure()


@pytest.mark.parametrize("gmacs", ["x", None, True, float("nan"), [0.1]])
def test_a_target_of_another_kind_is_refused(tiny_vit, gmacs):
    with pytest.raises(ValueError, match="GMACs"):
        vitrim.method_for_macs(tiny_vit(), "evit", gmacs)


@pytest.mark.parametrize("scorer", ["cls", "received"])
def test_half_precision_counts_as_fp32(tiny_vit, scorer):
    counts = {
        count_macs(vitrim.reduce_tokens(tiny_vit(), "evit", keep_rate=0.5, scorer=scorer).to(dtype))
        for dtype in (torch.float32, torch.bfloat16, torch.float16)
    }
    assert len(counts) == 1
