"""The convolutional stem and the blocks of LV-ViT, see `vitrim.models.lvvit`."""

from __future__ import annotations

import torch.nn.functional as F
from timm.layers import Attention, DropPath, Mlp, to_2tuple
from torch import Tensor, nn

from .mix_token import Grid


class ConvStem(nn.Module):
    """Three convolutions at half the resolution, then patches: [B, 3, H, W] -> [B, P, C]."""

    def __init__(self, img_size: int | Grid, patch_size: int, in_chans: int, channels: int, embed_dim: int):
        super().__init__()
        self.patch_size: Grid = to_2tuple(patch_size)
        self.set_input_size(img_size)
        self.conv1 = nn.Conv2d(in_chans, channels, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels)
        self.proj = nn.Conv2d(channels, embed_dim, patch_size // 2, stride=patch_size // 2)

    def set_input_size(self, img_size: int | Grid) -> None:
        """Set the image size in pixels. ValueError if patches do not fill it."""
        size, step = to_2tuple(img_size), self.patch_size[0]
        if any(side < step or side % step for side in size):
            raise ValueError(f"img_size must be a multiple of the patch size {step}, not {img_size}.")
        self.img_size: Grid = size
        self.grid_size: Grid = (self.img_size[0] // self.patch_size[0], self.img_size[1] // self.patch_size[1])
        self.num_patches = self.grid_size[0] * self.grid_size[1]

    def forward(self, x: Tensor) -> Tensor:
        """The patch tokens, without positions."""
        if tuple(x.shape[-2:]) != self.img_size:
            raise ValueError(
                f"the model takes images of {self.img_size[0]} x {self.img_size[1]} pixels, not {x.shape[-2]} x "
                f"{x.shape[-1]}: build it with another img_size, or call set_input_size()."
            )
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        x = F.relu(self.bn3(self.conv3(x)))
        patches: Tensor = self.proj(x)
        return patches.flatten(2).transpose(1, 2)


class Block(nn.Module):
    """x + attn(norm1(x)) / skip_lam, then x + mlp(norm2(x)) / skip_lam."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_ratio: float,
        skip_lam: float,
        drop_path: float,
        *,
        qkv_bias: bool,
        attn_drop: float,
        drop: float,
    ):
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"embed_dim must be a multiple of num_heads, not {dim} with {num_heads} heads.")
        self.skip_lam = skip_lam
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn = Attention(dim, num_heads, qkv_bias=qkv_bias, attn_drop=attn_drop, proj_drop=drop)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), drop=drop)
        self.drop_path = DropPath(drop_path)

    def forward(self, x_BNC: Tensor) -> Tensor:
        """[B, N, C] -> [B, N, C]."""
        x_BNC = x_BNC + self.drop_path(self.attn(self.norm1(x_BNC))) / self.skip_lam
        return x_BNC + self.drop_path(self.mlp(self.norm2(x_BNC))) / self.skip_lam
