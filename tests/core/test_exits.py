"""Exits beside a method: one pair however it is written, losses of both, refusals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

import vitrim
from vitrim import EViT, Exits
from vitrim.core.tokens import Tokens
from vitrim.loading.method_json import method_from_json, method_to_json

X, TARGET = torch.ones(2, 3, 32, 32), torch.tensor([3, 7])
Build = Callable[..., VisionTransformer]


@dataclass(frozen=True, kw_only=True)
class OwnExit(EViT):
    """A method that learns an exit of its own in block 1, and tells a loss of the same name."""

    name = "own_exit"

    def make_weights(self, layer: int, spec: Any) -> nn.Module | None:
        return nn.ModuleDict({"exit": nn.Linear(spec.channels, spec.num_classes)}) if layer == 1 else None

    def after_block(self, layer: int, tokens: Tokens) -> Tokens:
        return tokens.collect(self.name, tokens.first_BC)

    def losses(self, collected: Any, logits_BK: Any, criterion: Any) -> dict[str, torch.Tensor]:
        return {"exits": collected[0].mean()}


def test_a_pair_is_the_same_however_it_is_written(tiny_vit: Build) -> None:
    method, exits = EViT(keep_rate=0.6, layers=(1, 2)), Exits(layers=(2,), temperature=2.0)
    written = vitrim.METR(method=method, exits=(2,), temperature=2.0)
    assert written == replace(method, exits=exits) != method
    model = vitrim.reduce_tokens(tiny_vit(), method, exits=exits)
    named = vitrim.reduce_tokens(tiny_vit(), "metr", keep_rate=0.6, layers=(1, 2), exits=(2,), temperature=2.0)
    assert vitrim.method_of(model) == vitrim.method_of(named) == written.built_for(model.blocks.spec)
    assert "blocks.2.method.exit.3.weight" in model.state_dict()
    assert "Exits(layers=(2,)" in str(model)


def test_a_method_with_exits_is_written_as_it_always_was() -> None:
    text = {
        "class": "METR",
        "settings": {
            "method": {"class": "ToMe", "settings": {"r": [2, 2], "layers": None, "clamp": False, "prop_attn": True}},
            "exits": [1],
            "exit_weight": 0.15,
            "distill_weight": 0.1,
            "temperature": 1.0,
        },
    }
    method = method_from_json(text)
    assert method == vitrim.ToMe(r=(2, 2), exits=Exits(layers=(1,), distill_weight=0.1))
    assert method_to_json(method) == text


def test_exits_are_no_setting_of_a_method() -> None:
    with pytest.raises(ValueError, match=r"EViT.*exits"):
        method_from_json({"class": "EViT", "settings": {"exits": [1]}})
    with pytest.raises(ValueError, match=r"evit: exits.*Exits"):
        vitrim.create_method("evit", exits=(1, 2))


def test_losses_of_one_name_are_refused(tiny_vit: Build) -> None:
    model = vitrim.reduce_tokens(tiny_vit(), OwnExit(layers=(1, 2)), exits=Exits(layers=(2,)))
    with pytest.raises(ValueError, match=r"own_exit.*losses.*exits"):
        vitrim.ClassificationTask(model)(X, TARGET)


def test_two_exits_in_one_block_and_exits_given_twice_are_refused(tiny_vit: Build) -> None:
    with pytest.raises(ValueError, match=r"exit.*block 1"):
        vitrim.reduce_tokens(tiny_vit(), OwnExit(layers=(1, 2)), exits=Exits())
    with pytest.raises(ValueError, match="already has exits"):
        vitrim.reduce_tokens(tiny_vit(), vitrim.METR(method=EViT()), exits=Exits())


def test_exits_that_are_swapped_in_have_no_heads(tiny_vit: Build) -> None:
    model = vitrim.reduce_tokens(tiny_vit(), EViT(layers=(1, 2)))
    model.blocks.set_method(EViT(layers=(1, 2), exits=Exits()))
    assert model(X).shape == (2, 10)
    with pytest.raises(ValueError, match=r"block 1.*exit head"):
        vitrim.ClassificationTask(model)(X, TARGET)
