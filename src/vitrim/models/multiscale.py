"""MF: the multi-scale features of Multi-Scale And Token Mergence: Make Your ViT More Efficient (Bian et al., 2023).

Paper: https://arxiv.org/abs/2306.04897, section 3.4. No official code is public. Importing this module registers
mf_deit_{tiny,small,base}_patch16_224 with timm; nothing else does.
The first blocks have two groups of tokens, of a fine grid (high scale) and of a grid with half as many rows and columns
(low scale). Each group has its class token and position embedding; the weights are shared. The attention of the high
group works on its 2x2 means (eq. 6). Then the groups are fused (eq. 5), and a plain DeiT follows.

Our choices where the paper is silent:
- Low-scale tokens come from the same patch embedding, applied to the image halved by 2x2 means. The parameter counts
  leave no room for a second embedding.
- Eq. 6 leaves out the norm, as eq. 1 does. It comes before the 2x2 means, which suits the weights of a DeiT better.
  "The class token unchanged" means that it is neither averaged nor upsampled: it attends like any token.
- LKA is the large kernel attention without the projections around it (Guo et al., 2022): depthwise 5x5, depthwise 7x7
  with dilation 3, and 1x1, times the input. PEG is a depthwise 3x3 plus its input (Chu et al., 2021).
- The fused class token is the mean of the two. A sum would double it, and later blocks of a DeiT would change it half
  as much.

Both groups are one sequence, high before low, so MLPs run once on all tokens. There are as many means of the high group
as low tokens, so one attention call serves both groups, as a batch of twice the size.
"""

from __future__ import annotations

from typing import Any

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import PatchEmbed
from timm.layers.pos_embed import resample_abs_pos_embed
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models._features import feature_take_indices
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from .multiscale_blocks import Fusion, MultiscaleBlock, MultiscaleEmbed

__all__ = ["MultiscaleBlock", "MultiscaleViT", "from_deit"]

# Settings of timm's VisionTransformer that must keep these values.
FIXED: dict[str, Any] = {
    "class_token": True,
    "reg_tokens": 0,
    "pos_embed": "learn",
    "no_embed_class": False,
    "dynamic_img_size": False,
    "dynamic_img_pad": False,
    "patch_drop_rate": 0.0,
    "block_fn": Block,
    "embed_layer": PatchEmbed,
}


class MultiscaleViT(VisionTransformer):
    """DeiT with multi-scale features in its first blocks: timm.create_model("mf_deit_small_patch16_224").

    fusion_layer: the number of blocks with both groups. Tokens can be reduced after them. The other settings are those
    of timm's VisionTransformer, without FIXED. ValueError for one of these, and for an odd grid of patches.
    """

    cls_token: nn.Parameter
    pos_embed: nn.Parameter

    def __init__(self, *, fusion_layer: int = 3, **settings: Any):
        for name, value in FIXED.items():
            if settings.get(name, value) != value:
                raise ValueError(f"a multi-scale model cannot use {name}={settings[name]!r}: leave it at {value!r}.")
        super().__init__(**settings | {"embed_layer": MultiscaleEmbed})
        grid, depth = self.patch_embed.grid_size, len(self.blocks)
        if grid[0] % 2 or grid[1] % 2:
            raise ValueError(
                f"a multi-scale model halves its grid of patches, so rows and columns must be even, not {grid[0]} x "
                f"{grid[1]}: choose an img_size that is a multiple of {2 * self.patch_embed.patch_size[0]}."
            )
        if not 1 <= fusion_layer < depth:
            raise ValueError(f"fusion_layer must be from 1 to {depth - 1} for {depth} blocks, not {fusion_layer!r}.")
        self.fusion_layer, self.grid = fusion_layer, grid
        factory: dict[str, Any] = {"device": self.cls_token.device, "dtype": self.cls_token.dtype}
        blocks: Any = self.blocks
        for i in range(fusion_layer):
            fusion = Fusion(self.embed_dim, grid, **factory) if i == fusion_layer - 1 else None
            blocks[i] = MultiscaleBlock(blocks[i], grid, fusion)
        self.cls_token_low = nn.Parameter(torch.empty(1, 1, self.embed_dim, **factory))
        self.pos_embed_low = nn.Parameter(torch.empty(1, 1 + grid[0] * grid[1] // 4, self.embed_dim, **factory))
        self._init_low()

    def init_weights(self, mode: str = "", needs_reset: bool = True) -> None:
        super().init_weights(mode, needs_reset)
        if hasattr(self, "pos_embed_low"):  # timm also calls this before these parameters exist
            self._init_low()

    def _init_low(self) -> None:
        nn.init.trunc_normal_(self.pos_embed_low, std=0.02)
        nn.init.normal_(self.cls_token_low, std=1e-6)

    def no_weight_decay(self) -> set[str]:
        return {*super().no_weight_decay(), "cls_token_low", "pos_embed_low"}

    def set_input_size(self, *_: object, **__: object) -> None:
        raise ValueError("a multi-scale model cannot change its size: build or load it with img_size.")

    def forward_intermediates(self, x: Tensor, indices: Any = None, *args: Any, **settings: Any) -> Any:
        first = min(feature_take_indices(len(self.blocks), indices)[0])
        if first < self.fusion_layer - 1:
            raise ValueError(
                f"block {first} of a multi-scale model has features of two scales, not one grid: use indices of at "
                f"least {self.fusion_layer - 1}."
            )
        return super().forward_intermediates(x, indices, *args, **settings)

    def adapt_state(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """`from_deit`, for code that loads weights into any model."""
        return from_deit(state, self)

    def _pos_embed(self, x_BNC: Tensor) -> Tensor:
        """Add class tokens and positions: [B, P + Q, C] -> [B, 2 + P + Q, C]."""
        num_high = self.patch_embed.num_patches
        cls_high, cls_low = (cls.expand(x_BNC.shape[0], -1, -1) for cls in (self.cls_token, self.cls_token_low))
        x_BNC = torch.cat([cls_high, x_BNC[:, :num_high], cls_low, x_BNC[:, num_high:]], dim=1)
        return self.pos_drop(x_BNC + torch.cat([self.pos_embed, self.pos_embed_low], dim=1))


def from_deit(state: dict[str, Tensor], model: MultiscaleViT) -> dict[str, Tensor]:
    """Complete the state_dict of a plain DeiT for the multi-scale model. One that is complete is returned.

    New parts start from those of the DeiT: the low class token is a copy, and the low position embedding is resampled.
    The fusion starts as X = X_high: its 1x1 and PEG are zero, and its other kernels are means. ValueError if there is
    no position embedding of the model's size.
    """
    low_grid = [model.grid[0] // 2, model.grid[1] // 2]
    positions, wanted = state.get("pos_embed"), model.pos_embed.shape
    if positions is None or positions.shape != wanted:
        raise ValueError(
            f"a multi-scale model starts from a DeiT of its own size, with a pos_embed of {list(wanted)}, not "
            f"{'none' if positions is None else list(positions.shape)}. load_model(img_size=) resamples it."
        )
    if "pos_embed_low" in state:  # weights of a multi-scale model, maybe of another resolution
        low = state["pos_embed_low"]
        fits = low.shape == model.pos_embed_low.shape
        return state if fits else state | {"pos_embed_low": resample_abs_pos_embed(low, low_grid)}
    new = {"pos_embed_low": resample_abs_pos_embed(positions, low_grid, list(model.grid))}
    if "cls_token" in state:
        new["cls_token_low"] = state["cls_token"].clone()
    at = f"blocks.{model.fusion_layer - 1}.fusion"
    for name, parameter in model.get_submodule(at).named_parameters():
        averages = name in ("depthwise.weight", "dilated.weight")
        new[f"{at}.{name}"] = torch.full_like(parameter.detach(), 1 / parameter[0].numel() if averages else 0.0)
    return new | state


def _create(name: str, pretrained: bool, **settings: Any) -> MultiscaleViT:
    model: MultiscaleViT = build_model_with_cfg(
        MultiscaleViT,
        name,
        pretrained,
        pretrained_filter_fn=from_deit,
        feature_cfg={"out_indices": 3, "feature_cls": "getter"},
        **settings,
    )
    return model


SIZES: dict[str, dict[str, int]] = {
    "tiny": {"embed_dim": 192, "num_heads": 3},
    "small": {"embed_dim": 384, "num_heads": 6},
    "base": {"embed_dim": 768, "num_heads": 12},
}

# There are no public weights: load those of a DeiT, or your own.
default_cfgs = generate_default_cfgs(
    {
        f"mf_deit_{size}_patch16_224": {
            "num_classes": 1000,
            "input_size": (3, 224, 224),
            "fixed_input_size": True,
            "pool_size": None,
            "crop_pct": 0.9,
            "interpolation": "bicubic",
            "mean": IMAGENET_DEFAULT_MEAN,
            "std": IMAGENET_DEFAULT_STD,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        }
        for size in SIZES
    }
)


@register_model
def mf_deit_tiny_patch16_224(pretrained: bool = False, **settings: Any) -> MultiscaleViT:
    """DeiT-Tiny with multi-scale features."""
    return _create("mf_deit_tiny_patch16_224", pretrained, **SIZES["tiny"] | settings)


@register_model
def mf_deit_small_patch16_224(pretrained: bool = False, **settings: Any) -> MultiscaleViT:
    """DeiT-Small with multi-scale features."""
    return _create("mf_deit_small_patch16_224", pretrained, **SIZES["small"] | settings)


@register_model
def mf_deit_base_patch16_224(pretrained: bool = False, **settings: Any) -> MultiscaleViT:
    """DeiT-Base with multi-scale features."""
    return _create("mf_deit_base_patch16_224", pretrained, **SIZES["base"] | settings)
