"""What a method sees inside one block."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from vitrim.core.attention import Attention
from vitrim.core.spec import ViTSpec
from vitrim.core.tokens import Tokens

B, H, D, PREFIX, PATCHES = 2, 3, 8, 2, 40


class Moment(NamedTuple):
    """The moment between attention and MLP of one block, in float64."""

    spec: ViTSpec
    tokens: Tokens  # 2 prefix tokens and 40 patches, sources kept
    attention: Attention
    matrix_BHNN: Tensor  # the attention matrix, for comparison

    @property
    def score_BP(self) -> Tensor:
        """Head-mean attention of the class token to each patch."""
        return self.matrix_BHNN.mean(dim=1)[:, 0, PREFIX:]

    def patches(self) -> Tensor:
        return self.tokens.patches_BNC


@pytest.fixture
def moment() -> Moment:
    """Random features, queries and keys; attention far from uniform."""
    torch.manual_seed(0)
    x_BNC = torch.randn(B, PREFIX + PATCHES, H * D, dtype=torch.float64)
    q, k, v = (1.5 * torch.randn(B, H, PREFIX + PATCHES, D, dtype=torch.float64) for _ in range(3))
    matrix = (q @ k.mT * D**-0.5).softmax(dim=-1)
    spec = ViTSpec(
        name="a model",
        depth=4,
        num_prefix=PREFIX,
        has_cls=True,
        pools_patches=False,
        num_patches=PATCHES,
        channels=H * D,
        num_heads=H,
        attention_channels=H * D,
        attention_macs=4 * (H * D) ** 2,
        mlp_macs=8 * (H * D) ** 2,
    )
    return Moment(spec, Tokens(x_BNC, PREFIX, traced=True), Attention(q, k, v, D**-0.5), matrix)


@pytest.fixture
def build(tiny_vit: Callable[..., VisionTransformer]) -> Callable[..., VisionTransformer]:
    """A ViT of six blocks."""
    return lambda **settings: tiny_vit(**({"depth": 6, "patch_size": 8} | settings))
