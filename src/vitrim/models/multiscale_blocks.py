"""The parts of a multi-scale ViT: embedding, block and fusion of two groups of tokens. See `multiscale.py`.

Shape letters beyond those of `core.tokens`: P patches of the high group, Q = P / 4 of the low one. Both are one
sequence of 2 + P + Q: class token and patches of the high group, then of the low one.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import PatchEmbed
from timm.models.vision_transformer import Block
from torch import Tensor, nn

Grid = tuple[int, int]  # rows and columns of the high group's patches


class MultiscaleEmbed(PatchEmbed):
    """timm's PatchEmbed on the image and on the halved image: [B, C, H, W] -> [B, P + Q, C]."""

    def forward(self, x_BCHW: Tensor) -> Tensor:
        high_BPC: Tensor = super().forward(x_BCHW)  # type: ignore[no-untyped-call]
        low_BCHW = self.proj(F.avg_pool2d(x_BCHW, 2))
        return torch.cat([high_BPC, self.norm(low_BCHW.flatten(2).transpose(1, 2))], dim=1)


class Fusion(nn.Module):
    """Eq. 5: PEG(high + LKA(UP(low))). [B, 2 + P + Q, C] -> [B, 1 + P, C]."""

    def __init__(self, channels: int, grid: Grid, **factory: Any):
        super().__init__()
        self.grid = grid
        self.depthwise = nn.Conv2d(channels, channels, 5, padding=2, groups=channels, **factory)
        self.dilated = nn.Conv2d(channels, channels, 7, padding=9, dilation=3, groups=channels, **factory)
        self.pointwise = nn.Conv2d(channels, channels, 1, **factory)
        self.peg = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, **factory)

    def forward(self, x_BNC: Tensor) -> Tensor:
        cls_high, high_BPC, cls_low, low_BQC = split(x_BNC, self.grid)
        up_BCHW = as_map(upsample(low_BQC, self.grid), self.grid)
        x_BCHW = as_map(high_BPC, self.grid) + self.pointwise(self.dilated(self.depthwise(up_BCHW))) * up_BCHW
        x_BCHW = x_BCHW + self.peg(x_BCHW)
        return torch.cat([(cls_high + cls_low) / 2, x_BCHW.flatten(2).transpose(1, 2)], dim=1)


class MultiscaleBlock(nn.Module):
    """A timm Block, with the same parameter names, on both groups: [B, 2 + P + Q, C].

    The last of these blocks has a `fusion` and returns [B, 1 + P, C].
    """

    norm1: nn.Module
    attn: nn.Module
    ls1: nn.Module
    drop_path1: nn.Module
    norm2: nn.Module
    mlp: nn.Module
    ls2: nn.Module
    drop_path2: nn.Module

    def __init__(self, block: Block, grid: Grid, fusion: Fusion | None = None):
        super().__init__()
        for name, child in block.named_children():
            self.add_module(name, child)
        self.grid = grid
        self.fusion = fusion

    def forward(self, x_BNC: Tensor, attn_mask: None = None, is_causal: bool = False) -> Tensor:
        if attn_mask is not None or is_causal:
            raise ValueError("a multi-scale model takes no attention mask: its groups have their own grids.")
        cls_high, high_BPC, cls_low, low_BQC = split(self.norm1(x_BNC), self.grid)
        groups = torch.cat([cls_high, downsample(high_BPC, self.grid), cls_low, low_BQC], dim=1)
        update = self.ls1(self.attn(torch.cat(groups.chunk(2, dim=1))))
        update_high, update_low = torch.unflatten(
            update, 0, (2, x_BNC.shape[0])
        )  # chunk would fix the batch in exports
        update = torch.cat([update_high[:, :1], upsample(update_high[:, 1:], self.grid), update_low], dim=1)
        x_BNC = x_BNC + self.drop_path1(update)
        x_BNC = x_BNC + self.drop_path2(self.ls2(self.mlp(self.norm2(x_BNC))))
        return x_BNC if self.fusion is None else self.fusion(x_BNC)


def split(x_BNC: Tensor, grid: Grid) -> list[Tensor]:
    """Split into class token and patches of the high group, then of the low one."""
    num_high = grid[0] * grid[1]
    return list(torch.split(x_BNC, [1, num_high, 1, num_high // 4], dim=1))


def downsample(x_BPC: Tensor, grid: Grid) -> Tensor:
    """DOWN of eq. 6: means of 2x2 neighbours, [B, P, C] -> [B, Q, C]."""
    B, _, C = x_BPC.shape
    return x_BPC.reshape(B, grid[0] // 2, 2, grid[1] // 2, 2, C).mean(dim=(2, 4)).flatten(1, 2)


def upsample(x_BQC: Tensor, grid: Grid) -> Tensor:
    """UP of eq. 5 and 6: repeat each token for its 2x2 patches, [B, Q, C] -> [B, P, C]."""
    B, _, C = x_BQC.shape
    rows, columns = grid[0] // 2, grid[1] // 2
    x = x_BQC.reshape(B, rows, 1, columns, 1, C).expand(-1, -1, 2, -1, 2, -1)
    return x.reshape(B, grid[0] * grid[1], C)


def as_map(x_BPC: Tensor, grid: Grid) -> Tensor:
    """[B, P, C] -> [B, C, rows, columns]."""
    return torch.unflatten(x_BPC.transpose(1, 2), 2, grid)
