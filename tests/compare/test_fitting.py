"""A configuration that does not fit a model is reported with the reason, and does not stop the others."""

from __future__ import annotations

import pytest
from torch import nn

from vitrim.backbones.reader import find_stack
from vitrim.compare.configuration import configurations
from vitrim.compare.fitting import fit


def test_what_does_not_fit_is_told_and_the_rest_fits(tiny_vit):
    model = tiny_vit()
    keys = list(model.state_dict())
    found = fit(model, configurations(["evit", "tome", "metr"], [0.5], gmacs=[99], r=[99]), seed=3)
    assert list(found.methods) == [("evit", "keep 0.5"), ("tome", "keep 0.5"), ("metr", "keep 0.5")]
    reasons = {each.key: each.reason for each in found.refused}
    assert "r = 99 in block 0" in reasons["tome", "r 99"]
    assert all("GMACs" in reasons[method, "99 GMACs"] for method in ("evit", "tome", "metr"))
    assert len(reasons) == 4
    assert found.assumption == ""
    assert find_stack(model) is None
    assert list(model.state_dict()) == keys


def test_a_method_that_learns_does_not_fit_blocks_that_stand_twice(tiny_vit):
    model = tiny_vit()
    model.blocks = nn.Sequential(*[model.blocks[0]] * 12)
    found = fit(model, configurations(["evit", "metr"], [0.5]))
    assert [each.key for each in found.refused] == [("metr", "keep 0.5")]
    assert "evit learns" in found.refused[0].reason


def test_where_nothing_fits_all_reasons_are_told(tiny_vit):
    with pytest.raises(ValueError, match=r"^tome: .*90.*block 0") as one:
        fit(tiny_vit(), configurations(["tome"], r=[90]))
    assert "tome r 90" not in str(one.value)
    with pytest.raises(ValueError, match=r"evit r 90: .*; tome r 90: "):
        fit(tiny_vit(), configurations(["evit", "tome"], r=[90]))


def test_without_a_class_token_another_scorer_is_taken_and_named(tiny_vit):
    model = tiny_vit(class_token=False, global_pool="avg")
    found = fit(model, configurations(["evit", "token_mergence", "tome", "feature_norm", "metr"], [0.5]))
    assert list(found.methods) == [
        ("evit", "keep 0.5, scorer received"),
        ("token_mergence", "keep 0.5, scorer received"),
        ("tome", "keep 0.5"),
        ("feature_norm", "keep 0.5"),
    ]
    assert "no class token: evit, token_mergence rank patches by --scorer received" in found.assumption
    assert found.assumption.endswith("tome costs as much as EViT with it.")
    assert "puts its exit heads on the class token" in found.refused[0].reason
    chosen = fit(model, configurations(["evit"], [0.5], settings={"scorer": "norm"}))
    assert (list(chosen.methods), chosen.assumption) == ([("evit", "keep 0.5, scorer norm")], "")
