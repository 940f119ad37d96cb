"""Small multi-scale models."""

from __future__ import annotations

from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from vitrim.models.multiscale import MultiscaleViT

SMALL: dict[str, Any] = {
    "img_size": (32, 24),  # 8 x 6 patches
    "patch_size": 4,
    "embed_dim": 24,
    "depth": 5,
    "num_heads": 3,
    "num_classes": 10,
    "fusion_layer": 2,
}


NEW = {"cls_token_low", "pos_embed_low"} | {
    f"blocks.1.fusion.{part}.{name}"
    for part in ("depthwise", "dilated", "pointwise", "peg")
    for name in ("weight", "bias")
}


def small(**settings: Any) -> MultiscaleViT:
    """A small model whose every parameter is random, none zero or one."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        found = MultiscaleViT(**(SMALL | settings)).eval()
        for parameter in found.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return found


def plain_deit(**settings: Any) -> VisionTransformer:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        arguments = {key: value for key, value in SMALL.items() if key != "fusion_layer"}
        return VisionTransformer(**(arguments | settings)).eval()


def images(count: int = 2) -> Tensor:
    return torch.randn(count, 3, 32, 24, generator=torch.Generator().manual_seed(2))
