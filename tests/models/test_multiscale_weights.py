"""Weights of a multi-scale model: its own, or those that a DeiT gives it to start from."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from multiscale_models import NEW, SMALL, images, plain_deit
from safetensors.torch import save_file
from torch import nn

import vitrim
from vitrim.models.multiscale import MultiscaleViT, from_deit


def test_the_new_parts_are_the_only_new_parameters(model: MultiscaleViT) -> None:
    assert set(model.state_dict()) - set(plain_deit().state_dict()) == NEW
    assert set(plain_deit().state_dict()) <= set(model.state_dict())


def test_a_deit_start_trains_all_new_parts_from_the_second_step_on() -> None:
    model = MultiscaleViT(**SMALL)
    model.load_state_dict(from_deit(plain_deit().state_dict(), model))
    before = copy.deepcopy(model.state_dict())
    optimiser = torch.optim.SGD(model.parameters(), lr=0.5)
    for _ in range(2):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(images()), torch.tensor([1, 2])).backward()
        optimiser.step()
    assert all(not torch.equal(before[name], model.state_dict()[name]) for name in NEW)


def test_weights_can_be_made_anew(model: MultiscaleViT) -> None:
    model.init_weights()
    assert model.cls_token_low.abs().max() < 1e-4
    assert 0.01 < float(model.pos_embed_low.detach().std()) < 0.03


@torch.no_grad()
def test_from_the_weights_of_a_deit_the_fused_patches_are_the_high_ones() -> None:
    model, deit = MultiscaleViT(**SMALL).eval(), plain_deit()
    state = from_deit(deit.state_dict(), model)
    model.load_state_dict(state)
    assert all(torch.equal(state[key], value) for key, value in deit.state_dict().items())
    assert torch.equal(model.cls_token_low, model.cls_token)
    x_BNC = torch.randn(2, 62, 24)
    assert torch.equal(model.blocks[1].fusion(x_BNC)[:, 1:], x_BNC[:, 1:49])
    assert model.pos_embed_low.shape == (1, 13, 24)
    assert torch.equal(model.pos_embed_low[:, 0], model.pos_embed[:, 0])


def test_the_start_depends_on_the_deit_alone() -> None:
    models = [MultiscaleViT(**SMALL) for _ in range(2)]
    states = [from_deit(plain_deit().state_dict(), model) for model in models]
    assert set(states[0]) == set(models[0].state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_low_positions_are_those_of_the_same_place() -> None:
    model, deit = MultiscaleViT(**SMALL), plain_deit()
    rows = torch.arange(8.0).view(8, 1, 1).expand(8, 6, 24).reshape(1, 48, 24)
    with torch.no_grad():
        deit.pos_embed[:, 1:] = rows
    low = from_deit(deit.state_dict(), model)["pos_embed_low"][0, 1:, 0].view(4, 3)
    torch.testing.assert_close(low[1:3], torch.tensor([[2.5] * 3, [4.5] * 3]), atol=0.05, rtol=0)  # the middle of two


def test_its_own_weights_are_taken_as_they_are(model: MultiscaleViT) -> None:
    state = from_deit(model.state_dict(), MultiscaleViT(**SMALL))
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())


def test_only_the_new_parts_may_be_missing(model: MultiscaleViT) -> None:
    state = plain_deit().state_dict()
    del state["blocks.0.norm1.weight"]
    with pytest.raises(RuntimeError, match=r'Missing key\(s\) in state_dict: "blocks.0.norm1.weight"'):
        model.load_state_dict(from_deit(state, model))


@pytest.mark.parametrize("other", [{"img_size": 32}, {"embed_dim": 48}, {"pos_embed": "none"}])
def test_a_deit_of_another_size_is_refused(model: MultiscaleViT, other: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"DeiT.*\[1, 49, 24\]"):
        from_deit(plain_deit(**other).state_dict(), model)


def test_load_model_takes_a_deit_and_its_own_checkpoints_at_any_even_grid(tmp_path: Path) -> None:
    deit = timm.create_model("deit_tiny_patch16_224", img_size=64, depth=4)
    state = {key: value for key, value in deit.state_dict().items() if not key.startswith("blocks.")}
    blocks = {
        f"blocks.{i}.{key}": value.clone() for i in range(12) for key, value in deit.blocks[0].state_dict().items()
    }
    save_file(state | blocks, tmp_path / "deit.safetensors")
    name = "mf_deit_tiny_patch16_224"
    model = vitrim.load_model(name, tmp_path / "deit.safetensors", img_size=64)
    assert isinstance(model, MultiscaleViT) and model.fusion_layer == 3
    assert torch.equal(model.pos_embed, deit.pos_embed)
    save_file(model.state_dict(), tmp_path / "mf.safetensors")
    larger = vitrim.load_model(name, tmp_path / "mf.safetensors", img_size=96)
    assert larger.pos_embed_low.shape == (1, 10, 192)
    assert larger(torch.randn(1, 3, 96, 96)).isfinite().all()
    with pytest.raises(ValueError, match=r"\[1, 197, 192\].*\[1, 17, 192\]"):
        vitrim.load_model(name, tmp_path / "deit.safetensors")
    del blocks["blocks.7.norm1.weight"]
    save_file(state | blocks, tmp_path / "damaged.safetensors")
    with pytest.raises(ValueError, match=r"damaged\.safetensors .* 1 missing \(blocks\.7\.norm1\.weight\)"):
        vitrim.load_model(name, tmp_path / "damaged.safetensors", img_size=64)


def test_there_are_no_pretrained_weights_to_fetch() -> None:
    with pytest.raises(ValueError, match=r"no pretrained weights.*mf_deit_tiny_patch16_224"):
        vitrim.load_model("mf_deit_tiny_patch16_224")
