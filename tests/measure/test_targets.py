"""A target of multiply-adds is met by the best setting, or refused with the range."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import timm
import torch

import vitrim
from vitrim.backbones.reader import read_backbone
from vitrim.core.amount import distribute
from vitrim.core.method import Method
from vitrim.measure.benchmark import benchmark
from vitrim.measure.budget import targets
from vitrim.measure.budget.formula import reduced_macs, token_counts
from vitrim.measure.budget.targets import method_for_keep_rate, method_for_macs
from vitrim.measure.macs import count_macs


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
    monkeypatch.setattr("vitrim.core.amount.RATE_STEPS", 500)
    model = tiny_vit()
    spec, unreduced = read_backbone(model).spec, count_macs(model)
    target = int(unreduced * share)
    if name == "tome":
        candidates = [vitrim.ToMe(r=distribute(total, spec)) for total in range(12 * 32)]
    else:
        candidates = [vitrim.create_method(name, keep_rate=k / 500) for k in range(1, 501)]
    method = method_for_macs(model, name, target / 1e9)
    assert reduced_macs(unreduced, spec, method) == brute_force(model, target, candidates)


def test_a_target_that_a_round_keep_rate_meets_gives_that_rate():
    model = timm.create_model("deit_small_patch16_224")
    spec, unreduced = read_backbone(model).spec, count_macs(model)
    for keep_rate in (0.9, 0.7, 0.5, 1.0):
        for name in ("evit", "evit-nofuse", "random"):
            method = vitrim.create_method(name, keep_rate=keep_rate)
            target = reduced_macs(unreduced, spec, method)
            assert targets._solve(vitrim.create_method(name), spec, unreduced, target, {}) == method


def test_the_solved_method_is_what_the_counter_sees(tiny_vit):
    for name in ("evit", "tome"):
        model = tiny_vit()
        target = 0.7 * count_macs(model) / 1e9
        vitrim.reduce_tokens(model, method_for_macs(model, name, target))
        assert 0.97 * target < count_macs(model) / 1e9 <= target


def test_a_target_keeps_the_other_settings_and_reads_a_reduced_model_as_unreduced(tiny_vit):
    model = tiny_vit()
    target = 0.8 * count_macs(model) / 1e9
    method = method_for_macs(model, "evit", target, layers=(2, 5), fuse=False)
    assert (method.layers, method.fuse) == ((2, 5), False)
    vitrim.reduce_tokens(model, "evit", keep_rate=0.5)
    assert method_for_macs(model, "evit", target, layers=(2, 5), fuse=False) == method


def test_tome_merges_half_of_the_patches_where_an_even_share_is_more(tiny_vit):
    model = tiny_vit()
    method = method_for_macs(model, "tome", 0.45 * count_macs(model) / 1e9)
    counts = [count - 1 for count in token_counts(read_backbone(model).spec, method)]
    for removed, before in zip(method.r, [64, *counts], strict=False):
        assert removed in (method.r[0], method.r[0] - 1) or removed == before // 2 < method.r[0]
    assert method.r[0] > method.r[-1] + 1
    assert counts[-1] >= 1


def test_tome_spreads_its_merges_evenly_with_more_in_the_first_blocks(tiny_vit):
    model = tiny_vit()
    r = method_for_macs(model, "tome", 0.75 * count_macs(model) / 1e9).r
    assert len(r) == 12
    assert max(r) - min(r) <= 1
    assert list(r) == sorted(r, reverse=True)


@pytest.mark.parametrize("name", ["evit", "tome"])
@pytest.mark.parametrize("share", [1.01, 0.01])
def test_a_target_out_of_reach_is_an_error_with_the_range(tiny_vit, name, share):
    model = tiny_vit()
    with pytest.raises(ValueError, match=rf"{name}.* GMACs.* 0\.\d+ to 0\.\d+") as error:
        method_for_macs(model, name, share * count_macs(model) / 1e9)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("gmacs", [0.0, -1.0, float("nan"), float("inf")])
def test_a_target_that_is_no_amount_is_an_error(tiny_vit, gmacs):
    with pytest.raises(ValueError, match="GMACs"):
        method_for_macs(tiny_vit(), "evit", gmacs)


@pytest.mark.parametrize(("name", "setting"), [("evit", {"keep_rate": 0.5}), ("tome", {"r": 3})])
def test_what_is_solved_for_cannot_be_set(tiny_vit, name, setting):
    with pytest.raises(ValueError, match=rf"MACs.*\b{next(iter(setting))}\b"):
        method_for_macs(tiny_vit(), name, 0.01, **setting)


def test_settings_that_do_not_fit_are_errors_of_the_method(tiny_vit):
    with pytest.raises(ValueError, match="layers"):
        method_for_macs(tiny_vit(), "evit", 0.01, layers=(3, 30))
    with pytest.raises(ValueError, match=r"method.*'nothing'"):
        method_for_macs(tiny_vit(), "nothing", 0.01)


def test_a_method_without_a_number_to_solve_for_is_an_error(tiny_vit, monkeypatch):
    @dataclass(frozen=True)
    class Fixed(Method):
        name = "fixed"

    monkeypatch.setattr(targets, "create_method", lambda *_: Fixed())
    with pytest.raises(ValueError, match=r"fixed.*setting"):
        method_for_macs(tiny_vit(), "fixed", 0.01)


def test_a_keep_rate_gives_the_method_itself_where_it_has_one(tiny_vit):
    assert method_for_keep_rate(tiny_vit(), "evit", 0.5, fuse=False) == vitrim.EViT(keep_rate=0.5, fuse=False)


@pytest.mark.parametrize("keep_rate", [1.0, 0.9, 0.5])
@pytest.mark.parametrize("settings", [{}, {"class_token": False, "global_pool": "avg"}], ids=str)
def test_tome_at_a_keep_rate_costs_what_evit_costs(tiny_vit, keep_rate, settings):
    model = tiny_vit(**settings)
    tome = method_for_keep_rate(model, "tome", keep_rate, prop_attn=False)
    assert tome.prop_attn is False
    scorer = "received" if settings else "cls"
    wanted = count_macs(vitrim.reduce_tokens(tiny_vit(**settings), "evit", keep_rate=keep_rate, scorer=scorer))
    found = count_macs(vitrim.reduce_tokens(model, tome))
    assert 0.97 * wanted < found <= wanted
    if keep_rate == 1.0:
        assert found == wanted


@pytest.mark.parametrize("keep_rate", [0.0, 1.5])
def test_a_keep_rate_that_is_none_is_an_error_for_tome_too(tiny_vit, keep_rate):
    with pytest.raises(ValueError, match=f"above 0 and at most 1.* {keep_rate}"):
        method_for_keep_rate(tiny_vit(), "tome", keep_rate)


@pytest.fixture(scope="module")
def interpolating():
    """A ViT of transformers, built for 8 x 8 patches, that takes other sizes where its forward is told to."""
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 48, "num_attention_heads": 3, "intermediate_size": 96, "image_size": 64, "patch_size": 8}
    return transformers.ViTForImageClassification(transformers.ViTConfig(num_hidden_layers=4, **sizes)).eval()


@pytest.mark.parametrize("name", ["evit", "tome"])
def test_a_target_follows_the_patches_of_the_images_that_the_model_is_told_to_take(interpolating, name):
    larger = {"input_size": (3, 96, 80), "model_kwargs": {"interpolate_pos_encoding": True}}
    full = count_macs(vitrim.restore(interpolating), (3, 96, 80), interpolate_pos_encoding=True)
    assert full > 1.8 * count_macs(interpolating)
    clamp = {"clamp": True} if name == "tome" else {}  # fewer patches enter at the size that the model was built for
    method = method_for_macs(interpolating, name, 0.7 * full / 1e9, **larger, **clamp)
    vitrim.reduce_tokens(interpolating, method)
    assert 0.68 * full < count_macs(interpolating, (3, 96, 80), interpolate_pos_encoding=True) <= 0.7 * full
    spec = read_backbone(vitrim.restore(interpolating)).spec
    at_rate = reduced_macs(full, spec, vitrim.EViT(keep_rate=0.5), 12 * 10)
    tome = method_for_keep_rate(interpolating, "tome", 0.5, **larger, clamp=True)
    assert 0.97 * at_rate < reduced_macs(full, spec, tome, 12 * 10) <= at_rate


def test_features_and_benchmark_pass_on_what_the_models_forward_takes(interpolating):
    vitrim.reduce_tokens(interpolating, "tome", r=5)
    images_BCHW = torch.randn(1, 3, 96, 80)
    assert vitrim.features(interpolating, images_BCHW, interpolate_pos_encoding=True).maps[0].shape == (1, 48, 12, 10)
    small = {"batch_size": 1, "rounds": 1, "images_ICHW": images_BCHW}
    assert benchmark({"it": interpolating}, **small, interpolate_pos_encoding=True)["it"].images_per_s > 0
    vitrim.restore(interpolating)


def test_a_keyword_that_the_models_forward_does_not_take_is_not_swallowed(tiny_vit):
    with pytest.raises(TypeError, match="interpolate"):
        count_macs(tiny_vit(), interpolate=True)
    with pytest.raises(TypeError, match="interpolate"):
        vitrim.features(tiny_vit(), torch.randn(1, 3, 32, 32), interpolate=True)


@pytest.mark.parametrize("solve", [method_for_macs, method_for_keep_rate])
def test_the_name_first_as_it_was_once_works_with_one_warning(solve, tiny_vit):
    model, value = tiny_vit(), 0.9 * count_macs(tiny_vit()) / 1e9 if solve is method_for_macs else 0.7
    with pytest.warns(DeprecationWarning, match=f"{solve.__name__}.*model first") as told:
        swapped = solve("evit", model, value)
    assert len(told) == 1
    assert told[0].filename == __file__
    assert swapped == solve(model, "evit", value)
