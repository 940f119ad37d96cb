"""Models with exit heads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

import vitrim
from vitrim.core.tokens import Tokens

EXITS = (2, 4)


Build = Callable[..., VisionTransformer]


def metr(**settings: Any) -> vitrim.Method:
    return vitrim.METR(**({"method": vitrim.EViT(keep_rate=0.6, layers=(1, 3)), "exits": EXITS} | settings))


def images() -> Tensor:
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def heard(model: VisionTransformer, x_BCHW: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Final and exit logits."""
    outputs: list[Tokens] = []
    model.blocks.collect_outputs(outputs)
    logits_BK = model(x_BCHW)
    model.blocks.collect_outputs(None)
    assert outputs[0].aux is not None
    return logits_BK, outputs[0].collected("metr")
