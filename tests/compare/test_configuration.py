"""Configurations turn names and amounts into methods."""

from __future__ import annotations

import pytest

from every_method import FIXED
from vitrim.api import reduce_tokens
from vitrim.compare.configuration import Configuration, configurations, takes
from vitrim.measure.macs import count_macs


def test_every_method_is_combined_with_every_amount_once():
    found = configurations(["evit", "tome", "evit"], [0.9, 0.7, 0.9], [0.5])
    assert [each.key for each in found] == [
        (method, setting) for method in ("evit", "tome") for setting in ("keep 0.9", "keep 0.7", "0.5 GMACs")
    ]


def test_settings_go_to_the_methods_that_have_them_and_are_named():
    found = configurations(["evit", "tome"], [0.5], settings={"layers": (1, 2), "scorer": "norm"})
    assert [each.setting for each in found] == [
        "keep 0.5, layers 1 2, scorer norm",
        "keep 0.5, layers 1 2",
    ]


def test_a_setting_that_no_method_has_is_refused():
    with pytest.raises(ValueError, match=r"tome.*scorer"):
        configurations(["tome"], [0.5], settings={"scorer": "norm"})


def test_a_name_that_fixes_a_setting_does_not_take_it():
    assert takes("evit", "scorer")
    assert not takes("feature_norm", "scorer")
    assert not takes("tome", "keep_rate")


@pytest.mark.parametrize(
    ("amount", "value", "match"),
    [
        ("keep_rate", 0, "above 0.*not 0"),
        ("keep_rate", 1.5, r"at most 1.*not 1\.5"),
        ("keep_rate", float("nan"), "not nan"),
        ("gmacs", 0, "GMACs.*not 0"),
    ],
)
def test_amounts_out_of_range_are_refused(amount, value, match):
    with pytest.raises(ValueError, match=match):
        Configuration("evit", amount, value)


def test_masses_are_for_methods_that_keep_a_share_of_the_attention():
    found = configurations(["evit", "attention_mass"], [0.7], mass=[0.9, 0.8])
    assert [each.key for each in found] == [
        ("evit", "keep 0.7"),
        ("attention_mass", "mass 0.9"),
        ("attention_mass", "mass 0.8"),
    ]
    assert [each.varies for each in found] == [False, True, True]
    assert [each.setting for each in configurations(["attention_mass"])] == ["mass 0.9"]
    with pytest.raises(ValueError, match=r"attention_mass.*keep_rate.*mass"):
        configurations(["attention_mass"], [0.7])
    with pytest.raises(ValueError, match=r"evit.*mass"):
        configurations(["evit"], [0.7], mass=[0.9])
    with pytest.raises(ValueError, match=r"mass.*at most 1.*1\.5"):
        configurations(["attention_mass"], mass=[1.5])


def test_amounts_go_to_the_methods_that_they_suit_and_a_method_that_none_suits_does_not_fit(tiny_vit):
    assert [each.key for each in configurations(["evit", "tome"], [0.7], r=[3])] == [
        ("evit", "keep 0.7"),
        ("tome", "keep 0.7"),
        ("tome", "r 3"),
    ]
    unfit, fit = configurations(["evit", "tome"], r=[3])
    assert (unfit.key, fit.key) == (("evit", "r 3"), ("tome", "r 3"))
    with pytest.raises(ValueError, match=r"evit.*\br\b"):
        unfit.make(tiny_vit())
    with pytest.raises(ValueError, match=r"evit.*\br\b"):
        configurations(["evit"], [0.7], r=[3])


def test_r_is_a_whole_number():
    assert Configuration("tome", "r", 3).setting == "r 3"
    for value in (-1, 2.5):
        with pytest.raises(ValueError, match=r"\br\b.*whole number"):
            Configuration("tome", "r", value)


@pytest.mark.parametrize("name", FIXED)
def test_every_method_can_be_compared_at_the_same_keep_rate(tiny_vit, name):
    model = tiny_vit()
    full = count_macs(model)
    evit = count_macs(reduce_tokens(tiny_vit(), "evit", keep_rate=0.5))
    macs = count_macs(reduce_tokens(model, Configuration(name, "keep_rate", 0.5).make(model)))
    assert evit * 0.9 < macs < full * 0.75


def test_a_macs_target_is_met_from_below(tiny_vit):
    model = tiny_vit()
    target = 0.7 * count_macs(model) / 1e9
    for name in ("evit", "tome"):
        reduced = reduce_tokens(tiny_vit(), Configuration(name, "gmacs", target).make(model))
        assert 0.95 * target < count_macs(reduced) / 1e9 <= target


@pytest.mark.parametrize(("name", "amount", "value"), [("evit", "keep_rate", 0.5), ("attention_mass", "mass", 0.9)])
def test_layers_that_the_model_lacks_are_refused_before_any_weights_are_needed(tiny_vit, name, amount, value):
    with pytest.raises(ValueError, match=r"layers \(40,\).*blocks 0 to"):
        Configuration(name, amount, value, (("layers", (40,)),)).make(tiny_vit())


def test_the_seed_reaches_methods_that_draw(tiny_vit):
    model = tiny_vit()
    assert Configuration("random", "keep_rate", 0.5).make(model, seed=7).seed == 7
    Configuration("evit", "keep_rate", 0.5).make(model, seed=7)


def test_metr_takes_what_the_method_inside_takes():
    assert takes("metr", "layers")
    assert takes("metr", "scorer")
    assert takes("metr", "r")  # as EViT does
