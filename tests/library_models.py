"""Tiny models of torchvision, transformers and open_clip with random weights, and what tests do with them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from vitrim.backbones.reader import find_stack
from vitrim.core.stack import TokenStack

DEPTH = 5
IMAGES = 32
PATCHES = 64
HF = {
    "hidden_size": 48,
    "num_hidden_layers": DEPTH,
    "num_attention_heads": 3,
    "intermediate_size": 96,
    "image_size": IMAGES,
    "patch_size": 4,
}
DINO = {key: value for key, value in HF.items() if key != "intermediate_size"} | {"mlp_ratio": 2, "num_labels": 10}
OC_VISION = {"image_size": IMAGES, "patch_size": 4, "width": 48, "head_width": 16, "layers": DEPTH, "mlp_ratio": 2.0}
OC_TEXT = {"context_length": 8, "vocab_size": 100, "width": 32, "heads": 2, "layers": 2}


def torchvision_vit(**settings: Any) -> nn.Module:
    from torchvision.models import VisionTransformer

    sizes = {"image_size": IMAGES, "patch_size": 4, "num_layers": DEPTH, "num_heads": 4}
    model = VisionTransformer(**(sizes | {"hidden_dim": 48, "mlp_dim": 96, "num_classes": 10} | settings))
    return scrambled(model)


def of_transformers(name: str, config: str, **settings: Any) -> nn.Module:
    import transformers

    torch.manual_seed(0)
    return scrambled(getattr(transformers, name)(getattr(transformers, config)(**settings)))


def two_towers(name: str, config: str, **settings: Any) -> nn.Module:
    """A model of transformers with a configuration for its vision and its text tower."""
    text = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    text |= {"vocab_size": 100, "max_position_embeddings": 8, "eos_token_id": 2, "bos_token_id": 1}
    return of_transformers(name, config, vision_config=HF, text_config=text, **settings)


def hf_vit(**settings: Any) -> Any:
    return of_transformers("ViTForImageClassification", "ViTConfig", **HF, num_labels=10, **settings)


def hf_dinov3(**settings: Any) -> Any:
    return of_transformers("DINOv3ViTModel", "DINOv3ViTConfig", **HF, num_register_tokens=4, **settings)


def hf_clip() -> Any:
    return two_towers("CLIPModel", "CLIPConfig", projection_dim=24)


def of_open_clip(name: str = "CLIP", **settings: Any) -> nn.Module:
    from open_clip import model

    return scrambled(getattr(model, name)(24, OC_VISION | settings, OC_TEXT))


def scrambled(model: nn.Module) -> nn.Module:
    """The same with random weights far from their start; small LayerScales stay small."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        for name, parameter in model.named_parameters():
            if not any(scale in name for scale in ("ls_", "layer_scale")):
                parameter.copy_(torch.randn_like(parameter) * 0.2 + (parameter.ndim == 1 and name.endswith("weight")))
    return model.eval()


def images(num_images: int = 2) -> Tensor:
    return torch.randn(num_images, 3, IMAGES, IMAGES, generator=torch.Generator().manual_seed(1))


def output(model: nn.Module, images_BCHW: Tensor) -> Tensor:
    """The tensor that a user of such a model reads: logits, or pooled features."""
    out = model(images_BCHW)
    if isinstance(out, tuple):
        out = out[0]
    for name in ("logits", "pooler_output"):
        out = getattr(out, name, out)
    assert isinstance(out, Tensor)
    return out


def stack_of(model: nn.Module) -> TokenStack:
    found = find_stack(model)
    assert found is not None
    return found.stack
