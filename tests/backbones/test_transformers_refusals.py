"""What cannot work on models of transformers is refused in one line."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import vitrim
from library_models import (
    DEPTH,
    HF,
    hf_dinov3,
    hf_vit,
    images,
    of_transformers,
    stack_of,
)
from vitrim.backbones.reader import find_stack, restored

transformers = pytest.importorskip("transformers")


@pytest.mark.parametrize("what", ["output_hidden_states", "output_attentions"])
@pytest.mark.parametrize("family", ["vit", "dinov2", "dinov3", "clip", "siglip"])
def test_recording_what_blocks_return_refuses_and_works_again_after_restore(family: str, what: str) -> None:
    model = {
        "vit": hf_vit,
        "dinov2": lambda: of_transformers("Dinov2Model", "Dinov2Config", **HF),
        "dinov3": hf_dinov3,
        "clip": lambda: of_transformers("CLIPVisionModelWithProjection", "CLIPVisionConfig", **HF),
        "siglip": lambda: of_transformers("SiglipVisionModel", "SiglipVisionConfig", **HF),
    }[family]()
    model.set_attn_implementation("eager")
    twin = copy.deepcopy(model)
    vitrim.reduce_tokens(model, "tome", r=5)
    refused = pytest.raises(ValueError, match=rf"{what}.*vitrim.features\(model, images\)")
    with refused:
        model(images(), **{what: True})
    setattr(model.config, what, True)
    with refused:
        model(images())
    setattr(model.config, what, False)
    assert model(images())[0].isfinite().all()
    name = what.removeprefix("output_")
    with restored(model):
        found, wanted = (getattr(each(images(), **{what: True}), name) for each in (model, twin))
    assert len(found) == len(wanted) == DEPTH + (what == "output_hidden_states")
    assert all(torch.equal(*pair) for pair in zip(found, wanted, strict=True))
    with refused:
        model(images(), **{what: True})


def test_blocks_called_past_the_model_refuse_too() -> None:
    stack = stack_of(vitrim.reduce_tokens(hf_vit(), "evit"))
    with pytest.raises(ValueError, match="output_attentions"):
        stack[0](torch.randn(1, 65, 48), None, output_attentions=True)


def test_an_attention_mask_is_refused() -> None:
    model = vitrim.reduce_tokens(hf_vit(), "evit")
    with pytest.raises(ValueError, match="attention mask"):
        model(images(), attention_mask=torch.tensor([[1] * 60 + [0] * 5] * 2))


def test_blocks_that_turn_otherwise_are_refused() -> None:
    model = hf_dinov3()
    original = model.model.layer[1].forward
    model.model.layer[1].forward = lambda x, mask, position_embeddings: original(x, mask, position_embeddings[::-1])
    with pytest.raises(vitrim.UnsupportedModel, match=r"block 1 \(DINOv3ViTLayer, transformers .*wrongly"):
        vitrim.reduce_tokens(model, "evit")


REFUSED = {
    "BeitForImageClassification": ("BeitConfig", "relative position"),
    "DINOv3ViTBackbone": ("DINOv3ViTConfig", "patch grid"),
    "SwinForImageClassification": ("SwinConfig", "vitrim reads ViT"),
    "ResNetForImageClassification": ("ResNetConfig", "vitrim reads ViT"),
    "ViTForMaskedImageModeling": ("ViTConfig", "grid"),
    "Dinov2Backbone": ("Dinov2Config", "patch grid"),
    "CLIPTextModel": ("CLIPTextConfig", "text tower"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_models_are_refused_in_one_line(name: str) -> None:
    config, reason = REFUSED[name]
    with torch.device("meta"):
        model = getattr(transformers, name)(getattr(transformers, config)())
    with pytest.raises(vitrim.UnsupportedModel, match=rf"{name} .*{reason}.*transformers \d") as error:
        vitrim.reduce_tokens(model, "evit")
    assert "\n" not in str(error.value)
    assert find_stack(model) is None


def test_a_version_that_lays_its_blocks_out_otherwise_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = hf_vit()
    model.vit.encoder = nn.Module()  # as transformers 4 did
    model.vit.encoder.layer = model.vit.layers
    del model.vit.layers
    monkeypatch.setattr("vitrim.backbones.transformers.version", lambda library: f"{library} 4.57.6")
    wanted = r"ViTLayer.*transformers 5\.20 to 5\.23.*transformers 4\.57\.6"
    with pytest.raises(vitrim.UnsupportedModel, match=wanted) as error:
        vitrim.reduce_tokens(model, "evit")
    assert "\n" not in str(error.value)
    assert find_stack(model) is None


def test_a_block_that_computes_something_else_is_refused() -> None:
    model = hf_vit()
    original = model.vit.layers[1].forward
    model.vit.layers[1].forward = lambda x, mask: 2 * original(x, mask) - x
    with pytest.raises(vitrim.UnsupportedModel, match=r"block 1 \(ViTLayer, transformers .*wrongly"):
        vitrim.reduce_tokens(model, "evit")


def test_a_wrapper_around_timm_points_to_the_model_inside() -> None:
    settings = {"architecture": "vit_tiny_patch16_224", "num_labels": 10, "model_args": {"depth": 4}}
    model = transformers.TimmWrapperForImageClassification(transformers.TimmWrapperConfig(**settings)).eval()
    with pytest.raises(vitrim.UnsupportedModel, match=r"reduce_tokens\(model.timm_model"):
        vitrim.reduce_tokens(model, "evit")
    vitrim.reduce_tokens(model.timm_model, "evit")
    assert model(torch.randn(1, 3, 224, 224)).logits.shape == (1, 10)
    assert find_stack(model) is not None
    assert find_stack(vitrim.restore(model)) is None
