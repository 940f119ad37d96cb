"""The authors' numbers come out of models of transformers and torchvision too, with the same weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import oracles
import pytest
import torch
from oracles import EVIT, SHARED, Oracle
from test_evit_against_official_code import CASES as EVIT_CASES
from test_evit_against_official_code import method_of
from test_tome_against_official_code import PLAIN as TOME_CASES
from test_tome_against_official_code import merged_per_block, r_of
from torch import Tensor, nn

import vitrim
from vitrim.backbones.reader import find_stack

EXACT = 1e-10  # float64 against float64
TO_TRANSFORMERS = (
    ("blocks.", "vit.layers."),
    ("norm1", "layernorm_before"),
    ("norm2", "layernorm_after"),
    ("attn.proj", "attention.o_proj"),
    ("patch_embed.proj", "vit.embeddings.patch_embeddings.projection"),
    ("cls_token", "vit.embeddings.cls_token"),
    ("dist_token", "vit.embeddings.distillation_token"),
    ("pos_embed", "vit.embeddings.position_embeddings"),
    ("head_dist.", "distillation_classifier."),
    ("head.", "classifier."),
)
TO_TORCHVISION = (
    ("blocks.", "encoder.layers.encoder_layer_"),
    ("norm1", "ln_1"),
    ("norm2", "ln_2"),
    ("attn.qkv.", "self_attention.in_proj_"),
    ("attn.proj", "self_attention.out_proj"),
    ("mlp.fc1", "mlp.0"),
    ("mlp.fc2", "mlp.3"),
    ("patch_embed.proj", "conv_proj"),
    ("cls_token", "class_token"),
    ("pos_embed", "encoder.pos_embedding"),
    ("head.", "heads.head."),
)


def renamed(weights: dict[str, Tensor], names: tuple[tuple[str, str], ...], final_norm: str) -> dict[str, Tensor]:
    """The state_dict under another library's names."""
    out = {}
    for key, value in weights.items():
        key = f"{final_norm}{key[4:]}" if key.startswith("norm.") else key
        for ours, theirs in names:
            key = key.replace(ours, theirs)
        out[key] = value
    return out


def of_transformers(weights: dict[str, Tensor], size: int) -> nn.Module:
    """ViT, or DeiT with its two heads where the weights have a distillation token."""
    transformers = pytest.importorskip("transformers")
    weights = renamed(weights, TO_TRANSFORMERS, "vit.layernorm")
    for key in [key for key in weights if ".attn.qkv." in key]:
        for name, part in zip("qkv", weights.pop(key).chunk(3), strict=True):
            weights[key.replace("attn.qkv", f"attention.{name}_proj")] = part
    distilled = "distillation_classifier.weight" in weights
    kind = "DeiT" if distilled else "ViT"
    if distilled:
        weights = {
            ("cls_" if key.startswith("classifier") else "") + key.replace("vit.", "deit."): value
            for key, value in weights.items()
        }
    config = getattr(transformers, f"{kind}Config")(
        hidden_size=48,
        num_hidden_layers=12,
        num_attention_heads=3,
        intermediate_size=192,
        image_size=size,
        patch_size=16,
        num_labels=10,
        layer_norm_eps=1e-6,
    )
    name = f"{kind}ForImageClassification" + ("WithTeacher" if distilled else "")
    model: nn.Module = getattr(transformers, name)(config).double().eval()
    model.load_state_dict(weights)
    return model


def of_torchvision(weights: dict[str, Tensor], size: int) -> nn.Module:
    from torchvision.models import VisionTransformer

    sizes: dict[str, Any] = {"num_layers": 12, "num_heads": 3, "hidden_dim": 48, "mlp_dim": 192, "num_classes": 10}
    model = VisionTransformer(image_size=size, patch_size=16, **sizes).double().eval()
    model.load_state_dict(renamed(weights, TO_TORCHVISION, "encoder.ln"))
    return model


Make = Callable[[dict[str, Tensor], int], nn.Module]
each_library = pytest.mark.parametrize("make", [of_transformers, of_torchvision], ids=["transformers", "torchvision"])
needs_tome = pytest.mark.skipif(
    not (SHARED / "tome_r2.safetensors").exists(),
    reason="the ToMe oracles (CC-BY-NC) are not in this repository: set VITRIM_SHARED to the folder that has them",
)


def assert_equal(model: nn.Module, oracle: Oracle) -> None:
    """The logits, and the counts of the tokens that leave every block but the last."""
    found, counts = find_stack(model), []
    assert found is not None
    for block in list(found.stack)[:-1]:
        block.register_forward_hook(lambda _, __, out: counts.append(out.shape[1]))
    with torch.no_grad():
        out = model(oracle["input"].double())
    logits = getattr(out, "logits", out)
    assert counts == oracle["output.num_tokens"].tolist()[:-1]
    assert logits.dtype == torch.float64
    assert (logits - oracle["output64.logits"]).abs().max() <= EXACT


@each_library
@pytest.mark.parametrize("name", EVIT_CASES)
def test_evit_equals(make: Make, name: str) -> None:
    oracle = oracles.read(EVIT, name)
    if oracle.settings.get("img_size") != 96:
        pytest.skip("no case of 96 pixels: the position embedding would need resizing, which is the library's matter")
    assert_equal(vitrim.reduce_tokens(make(oracle.weights(), 96), method_of(oracle)), oracle)


@needs_tome
@each_library
@pytest.mark.parametrize("name", TOME_CASES)
def test_tome_equals(make: Make, name: str) -> None:
    oracle = oracles.read(SHARED, f"tome_{name}")
    method = vitrim.ToMe(r=r_of(oracle), prop_attn=oracle.settings["prop_attn"])
    assert_equal(vitrim.reduce_tokens(make(oracle.weights(), 96), method), oracle)


@needs_tome
def test_a_distilled_model_of_transformers_equals() -> None:
    oracle = oracles.read(SHARED, "tome_distilled_r3")
    method = vitrim.ToMe(r=merged_per_block(oracle, num_tokens=38))
    assert_equal(vitrim.reduce_tokens(of_transformers(oracle.weights(), 96), method), oracle)
