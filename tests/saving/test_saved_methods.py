"""Methods come back with their settings, can be replaced, and are refused where they could not come back."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest
import torch
from saved_models import built, method_of, outputs, reduced

import vitrim
from vitrim.core.method import Method
from vitrim.loading import method_json
from vitrim.loading.method_json import method_from_json, method_to_json
from vitrim.methods import METR, EViT, ToMe


@pytest.mark.parametrize(
    "method",
    [
        *(vitrim.create_method(name) for name in vitrim.list_methods()),
        ToMe(r=(13, -1.0)),
        ToMe(r=[13, 12]),
        ToMe(r=(13, 12, 11), prop_attn=False),
        EViT(keep_rate=0.1 + 0.2, layers=[3, 6], tokens=None),
        METR(method=ToMe(r=[1, 2]), exits=[], exit_weight=1e-9),
    ],
    ids=repr,
)
def test_settings_come_back_exactly(method):
    again = method_from_json(json.loads(json.dumps(method_to_json(method))))
    assert repr(again) == repr(method)  # a list and a tuple differ here, and 1 and 1.0
    assert again == method


@pytest.mark.parametrize("method", [ToMe(r=[9, 3]), METR(method=ToMe(r=[9, 3]))])
def test_a_pair_of_counts_for_two_blocks_is_not_taken_for_r_and_inflect(method, tmp_path):
    model = vitrim.reduce_tokens(built(depth=2), method)
    again = vitrim.from_pretrained(vitrim.save_pretrained(model, tmp_path / "saved"))
    assert method_of(again) == method_of(model)
    assert torch.equal(outputs(again), outputs(model))


def test_without_exits_the_plain_reduced_model_comes(saved):
    model = vitrim.from_pretrained(saved, exits=False)
    assert not any("method" in key for key in model.state_dict())
    assert isinstance(method_of(model), EViT)
    whole = vitrim.from_pretrained(saved)
    assert any("method.exit" in key for key in whole.state_dict())
    assert torch.equal(outputs(model), outputs(whole))


def test_the_method_can_be_left_out_or_replaced(saved):
    assert torch.equal(outputs(vitrim.from_pretrained(saved, method=None)), outputs(built()))
    assert isinstance(method_of(vitrim.from_pretrained(saved, method="random")), vitrim.Random)
    assert torch.equal(
        outputs(vitrim.from_pretrained(saved, method=ToMe(r=5))), outputs(vitrim.reduce_tokens(built(), ToMe(r=5)))
    )


def test_a_method_whose_weights_are_not_there_is_refused(tmp_path, saved):
    folder = vitrim.save_pretrained(reduced(), tmp_path / "plain")
    with pytest.raises(ValueError, match=r"no weights.*method.*blocks\.1\.method\.exit"):
        vitrim.from_pretrained(folder, method=METR(method=EViT()))
    with pytest.raises(ValueError, match=r"no weights.*method"):
        vitrim.from_pretrained(saved, method=METR(method=EViT(), exits=(0,)))


def test_a_method_from_elsewhere_is_refused_before_anything_is_written(tmp_path):
    @dataclass(frozen=True)
    class EViT(Method):  # the name of one of ours does not make it ours
        name = "mine"

    with pytest.raises(ValueError, match=r"EViT.*register"):
        vitrim.save_pretrained(vitrim.reduce_tokens(built(), EViT()), tmp_path / "saved")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", [torch.tensor(0.5), float("nan"), object(), {1: 2}])
def test_settings_that_are_no_plain_values_are_refused(value, monkeypatch):
    @dataclass(frozen=True)
    class Odd(Method):
        name = "odd"
        setting: object = None

    monkeypatch.setattr(method_json, "classes", lambda: {"Odd": Odd})
    with pytest.raises(ValueError, match=r"Odd\.setting.*numbers, .*tuples and lists"):
        method_to_json(Odd(setting=value))
