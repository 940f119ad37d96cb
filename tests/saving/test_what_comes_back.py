"""What is written comes back bit for bit."""

from __future__ import annotations

import pytest
import torch
from saved_models import built, images, method_of, outputs, reduced

import vitrim
from vitrim.backbones.reader import find_stack
from vitrim.loading.build import build_model, load_model
from vitrim.measure.model_input import eval_transform, input_size_of
from vitrim.methods import METR, BeyondAttentive, EViT, ToMe

RECEIVED = EViT(keep_rate=0.5, scorer="received")
FAMILIES = {
    "vit_tiny_patch16_224": (EViT(keep_rate=0.5), {}),
    "deit_tiny_distilled_patch16_224": (BeyondAttentive(keep_rate=0.5), {"drop_path_rate": 0.1}),
    "deit3_small_patch16_224": (ToMe(r=[5, 4]), {}),
    "vit_small_patch14_reg4_dinov2": (METR(method=EViT(keep_rate=(0.9, 0.5, 0.7)), exits=(0, 3)), {}),
    "vit_giant_patch14_reg4_dinov2": (EViT(tokens=(None, 9, None, 3, None)), {"mlp_ratio": 16 / 3}),  # SwiGLU
    "vit_base_patch32_clip_quickgelu_224": (vitrim.TokenMergence(similarity="attention"), {}),
    "vit_base_patch16_siglip_224": (RECEIVED, {}),
    "vit_betwixt_patch16_reg4_gap_256": (ToMe(r=(3, -1.0)), {}),
    "vit_medium_patch16_gap_240": (RECEIVED, {}),
    "vit_tiny_patch16_384": (vitrim.Random(seed=3), {"qk_norm": True, "act_layer": "gelu_tanh", "in_chans": 1}),
    "vit_small_patch32_224": (EViT(layers=(1, 4)), {"dynamic_img_size": True}),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_comes_back_with_the_same_logits_bit_for_bit(name, tmp_path):
    method, settings = FAMILIES[name]
    model = vitrim.reduce_tokens(built(name, **settings), method)
    again = vitrim.from_pretrained(vitrim.save_pretrained(model, tmp_path / "saved"))
    assert torch.equal(outputs(again), outputs(model))
    assert type(again) is type(model)
    assert not again.training
    assert method_of(again) == method_of(model)
    assert list(again.state_dict()) == list(model.state_dict())
    assert not torch.equal(outputs(again), outputs(vitrim.restore(again))), "the method did nothing here"


def test_a_model_without_reduction_comes_back_without(tmp_path):
    again = vitrim.from_pretrained(vitrim.save_pretrained(built(), tmp_path / "saved"))
    assert find_stack(again) is None
    assert torch.equal(outputs(again), outputs(built()))
    card = (tmp_path / "saved" / "README.md").read_text()
    assert "It carries all its tokens" in card
    assert "exits" not in card


def test_the_model_in_the_package_comes_back_without_a_path_of_this_machine(tmp_path):
    model = vitrim.reduce_tokens(load_model("vitrim_fashion_tiny"), "tome", r=4)
    folder = vitrim.save_pretrained(model, tmp_path / "saved")
    assert torch.equal(outputs(vitrim.from_pretrained(folder)), outputs(model))
    assert "vitrim_fashion_tiny.safetensors" not in (folder / "config.json").read_text()


@pytest.mark.parametrize("name", ["lvvit_tiny", "mf_deit_tiny_patch16_224"])
def test_models_of_vitrim_come_back(name, tmp_path):
    model = build_model(name, img_size=64, embed_dim=48, depth=5, num_heads=3, num_classes=7)
    vitrim.reduce_tokens(model, "evit", keep_rate=0.5, layers=(3,))
    again = vitrim.from_pretrained(vitrim.save_pretrained(model, tmp_path / "saved"))
    assert torch.equal(outputs(again), outputs(model))
    assert method_of(again) == method_of(model)


def test_what_changed_after_building_is_read_off_the_model(tmp_path):
    model = built()
    model.reset_classifier(3, "avg")
    model.set_input_size((40, 24))
    model.pretrained_cfg |= {"mean": (0.1, 0.2, 0.3), "crop_pct": 1.0, "label_names": ("a", "b", "ß")}
    vitrim.reduce_tokens(model, "tome", r=3)
    again = vitrim.from_pretrained(vitrim.save_pretrained(model, tmp_path / "saved"))
    assert torch.equal(outputs(again), outputs(model))
    assert input_size_of(again) == (3, 40, 24)
    assert str(eval_transform(again)) == str(eval_transform(model))
    assert again.pretrained_cfg["label_names"] == ("a", "b", "ß")


def test_arguments_that_timm_did_not_note_are_read_off_too(tmp_path):
    model = built(reg_tokens=2, no_embed_class=True)
    del model._model_args  # as with older versions of timm
    vitrim.reduce_tokens(model, "evit")
    again = vitrim.from_pretrained(vitrim.save_pretrained(model, tmp_path / "saved"))
    assert torch.equal(outputs(again), outputs(model))


@pytest.mark.parametrize("pools", [None, True])
def test_what_was_said_of_pooling_comes_back(pools, tmp_path):
    model = vitrim.reduce_tokens(built(), "evit", pools_patches=pools)
    again = vitrim.from_pretrained(vitrim.save_pretrained(model, tmp_path / "saved"))
    assert find_stack(again).stack.spec.pools_patches is bool(pools)
    assert torch.equal(again.forward_features(images(again)), model.forward_features(images(model)))
    assert ("pools_patches" in (tmp_path / "saved" / "config.json").read_text()) is bool(pools)


def test_an_exchanged_head_comes_back_with_its_classes(tmp_path):
    model = built()
    model.head = torch.nn.Linear(48, 3)
    again = vitrim.from_pretrained(vitrim.save_pretrained(vitrim.reduce_tokens(model, "metr"), tmp_path / "saved"))
    assert torch.equal(outputs(again), outputs(model))
    assert again.num_classes == 3
    assert [method.exits for method in (method_of(again),)] == [method_of(model).exits]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_precision_of_the_weights_stays(dtype, tmp_path):
    model = reduced("metr").to(dtype)
    again = vitrim.from_pretrained(vitrim.save_pretrained(model, tmp_path / "saved"))
    assert {parameter.dtype for parameter in again.parameters()} == {dtype}
    assert torch.equal(outputs(again), outputs(model))


def test_weights_that_share_memory_or_are_not_contiguous_are_saved(tmp_path):
    model = reduced()
    first, second = (block.mlp.fc1 for block in list(find_stack(model).stack.original.children())[:2])
    second.weight = first.weight
    model.head.weight.data = model.head.weight.data.t().contiguous().t()
    model.pos_embed.data = torch.randn(1, 80, 48)[:, :65]  # a view of a larger tensor
    state = vitrim.from_pretrained(vitrim.save_pretrained(model, tmp_path / "saved")).state_dict()
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())
    assert torch.equal(state["blocks.0.mlp.fc1.weight"], state["blocks.1.mlp.fc1.weight"])
    assert (tmp_path / "saved" / "model.safetensors").stat().st_size < 1.1 * sum(
        value.numel() * 4 for value in model.state_dict().values()
    )  # without the rest of the larger tensor


def test_saving_changes_neither_the_model_nor_what_is_drawn_next(tmp_path):
    model = reduced("metr").train()
    model.blocks[0].eval()
    heard = []
    find_stack(model).stack.collect_outputs(heard)
    before = [(id(value), value.clone()) for value in model.parameters()]
    modes, state = [module.training for module in model.modules()], torch.get_rng_state()
    vitrim.save_pretrained(model, tmp_path / "saved")
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in model.modules()] == modes
    assert all(
        id(now) == then and torch.equal(now, value)
        for now, (then, value) in zip(model.parameters(), before, strict=True)
    )
    assert heard == []
