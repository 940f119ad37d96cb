"""METR: its heads as weights, saved, loaded, copied and moved."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace
from typing import Any

import pytest
import torch
from exits import Build, heard, images, metr
from safetensors.torch import save_file
from timm.utils import ModelEmaV3
from torch import nn

import vitrim


def test_weights_load_into_the_plain_reduced_model_and_into_metr_again(build: Build) -> None:
    trained = vitrim.reduce_tokens(build(), metr())
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.add_(0.1)
    state = trained.state_dict()
    plain = vitrim.reduce_tokens(build(), replace(metr(), exits=None))
    assert plain.load_state_dict(state).missing_keys == []
    assert len(state) == 12 + len(plain.state_dict())  # two heads of three layers with weight and bias
    assert torch.equal(plain(images()), trained(images()))
    again = vitrim.reduce_tokens(build(), metr())
    again.load_state_dict(state)
    for mine, other in zip(heard(again, images())[1], heard(trained, images())[1], strict=True):
        assert torch.equal(mine, other)
    with pytest.raises(RuntimeError, match=r"Unexpected key.*blocks\.2\.method\.other"):
        plain.load_state_dict(state | {"blocks.2.method.other": torch.zeros(1)})
    with pytest.raises(RuntimeError, match=r"Missing key.*blocks\.2\.method\.exit"):
        again.load_state_dict(plain.state_dict())


def test_a_trained_learned_method_loads_without_the_heads(build: Build) -> None:
    inner = vitrim.BeyondAttentive(keep_rate=0.5, layers=(1, 2), inattentive="conv")
    state = vitrim.reduce_tokens(build(), metr(method=inner)).state_dict()
    assert {"blocks.2.method.conv.weight", "blocks.2.method.exit.0.weight"} <= set(state)
    vitrim.reduce_tokens(build(), inner).load_state_dict(state)


def test_a_file_with_heads_loads_into_the_unreduced_model(tmp_path: Any) -> None:
    name = "test_vit"
    model = vitrim.reduce_tokens(vitrim.build_model(name), vitrim.METR(method=vitrim.EViT(layers=(1, 3)), exits=(1,)))
    state = model.state_dict()
    save_file(state, tmp_path / "metr.safetensors")
    loaded = vitrim.load_model(name, tmp_path / "metr.safetensors").state_dict()
    assert set(state) - set(loaded) == {f"blocks.1.method.exit.{i}.{p}" for i in (0, 1, 3) for p in ("weight", "bias")}
    assert all(torch.equal(loaded[key], state[key]) for key in loaded)
    save_file(state | {"blocks.1.method.conv.weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"1 unknown \(blocks\.1\.method\.conv\.weight\)"):
        vitrim.load_model(name, tmp_path / "other.safetensors")


def test_restoring_takes_the_heads_out_and_reducing_again_makes_new_ones(build: Build) -> None:
    model = build()
    keys = list(model.state_dict())
    vitrim.reduce_tokens(model, metr())
    assert list(vitrim.restore(model).state_dict()) == keys
    vitrim.reduce_tokens(model, metr())
    vitrim.reduce_tokens(model, metr(exits=(5,)))
    heads = {key.split(".")[1] for key in model.state_dict() if ".method." in key}
    assert heads == {"5"}
    assert list(vitrim.reduce_tokens(model, "evit", layers=(1,)).state_dict()) == keys


def test_copies_have_heads_of_their_own(build: Build) -> None:
    model = vitrim.reduce_tokens(build(), metr())
    wanted = heard(model, images())[1]
    ema = ModelEmaV3(model, decay=0.5)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), ema.module):
        for mine, other in zip(heard(twin, images())[1], wanted, strict=True):
            assert torch.equal(mine, other)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    ema.update(model)
    key = "blocks.2.method.exit.3.weight"
    assert ema.module.state_dict()[key].any()
    assert not model.state_dict()[key].any()
    assert not any(exit_BK.any() for exit_BK in heard(model, images())[1])
    assert all(exit_BK.any() for exit_BK in heard(ema.module, images())[1])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_heads_move_with_the_model(build: Build, dtype: torch.dtype) -> None:
    model = vitrim.reduce_tokens(build(), metr()).to(dtype)
    assert all(exit_BK.dtype == dtype for exit_BK in heard(model, images().to(dtype))[1])
    assert vitrim.reduce_tokens(build().to(dtype), metr()).blocks[2].weights.exit[1].weight.dtype == dtype


def test_tools_that_look_weights_up_by_name_find_them(build: Build) -> None:
    model = vitrim.reduce_tokens(build(), metr())
    assert isinstance(model.get_submodule("blocks.2.method.exit"), nn.Sequential)
    parameters = dict(model.named_parameters())
    assert torch.equal(torch.func.functional_call(model, parameters, (images(),)), model(images()))
