"""Small models, reduced and traced."""

from __future__ import annotations

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

import vitrim
from every_method import amount
from vitrim.tracing import Trace, trace


def tiny_vit(**settings) -> VisionTransformer:
    """8 x 8 patches, 4 blocks."""
    return VisionTransformer(
        **{"img_size": 64, "patch_size": 8, "embed_dim": 32, "depth": 4, "num_heads": 2, "num_classes": 5} | settings
    ).eval()


def reduced_vit(method: str = "evit", **settings) -> VisionTransformer:
    return vitrim.reduce_tokens(tiny_vit(**settings), method, **amount(method, per_block=6))


def traced(model: nn.Module, images: torch.Tensor | None = None, **settings) -> Trace:
    with trace(model, **settings) as t, torch.no_grad():
        model(torch.randn(2, 3, 64, 64) if images is None else images)
    return t
