"""LV-ViT: All Tokens Matter: Token Labeling for Training Better Vision Transformers (Jiang et al., NeurIPS 2021).

Paper: https://arxiv.org/abs/2104.10858. Official code: https://github.com/zihangJiang/TokenLabeling (Apache-2.0).
A ViT with a convolutional stem, residual branches divided by `skip_lam`, and a second head on every patch token.
Importing this module registers lvvit_tiny, lvvit_small and lvvit_medium with timm. Parameter names are those of the
public checkpoints: `vitrim.load_model("lvvit_small", path)`.

As in the official code: the logits are those of the class token plus half the maximum over tokens of the second head.
There is one MixToken box per batch, on the token grid, rows first, and an image's partner comes from the reversed
batch. LayerNorm eps is 1e-5.
Different: the model returns plain logits in training too, unless `return_dense` asks for the dense output. There, the
second head's logits stay with their tokens. The official code pastes them back on the grid, which reduced tokens cannot
do. So `vitrim.train.token_labeling` mixes the targets instead, with the same loss (`swap_box(aux, ...)` gives the
official arrangement). The box comes from torch's generator, not NumPy's.
The paper's 16.0 GMACs for the medium model belong to a stem of 128 channels. With the release's 64 it has 12.7.
"""

from __future__ import annotations

from typing import Any

import torch
from timm.layers import resample_abs_pos_embed, trunc_normal_
from timm.models import build_model_with_cfg, checkpoint_seq, generate_default_cfgs, register_model
from torch import Tensor, nn

from .lvvit_blocks import Block, ConvStem
from .mix_token import Grid, box_mask, draw_box, swap_box

__all__ = ["LVViT", "lvvit_medium", "lvvit_small", "lvvit_tiny"]

Logits = Tensor | tuple[Tensor, Tensor, Tensor]


class LVViT(nn.Module):
    """LV-ViT. Images [B, 3, H, W] -> logits [B, classes].

    return_dense: whether training mode returns (class logits [B, classes], token logits [B, N, classes], box [4]) for
    the token-labeling loss. It is also an attribute. mix_token: whether that box is random; otherwise it is empty.
    drop_rate is for positions, projections and MLPs. drop_path_rate rises linearly from 0 over the blocks.
    """

    head: nn.Module
    aux_head: nn.Module

    def __init__(
        self,
        img_size: int | Grid = 224,
        patch_size: int = 16,
        in_chans: int = 3,
        num_classes: int = 1000,
        embed_dim: int = 384,
        depth: int = 16,
        num_heads: int = 6,
        mlp_ratio: float = 3.0,
        qkv_bias: bool = False,
        skip_lam: float = 2.0,
        stem_channels: int = 64,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        return_dense: bool = False,
        mix_token: bool = True,
    ):
        super().__init__()
        self.embed_dim = self.num_features = self.head_hidden_size = embed_dim
        self.num_prefix_tokens, self.has_class_token, self.global_pool = 1, True, "token"
        self.return_dense, self.mix_token, self.grad_checkpointing = return_dense, mix_token, False
        self.patch_embed = ConvStem(img_size, patch_size, in_chans, stem_channels, embed_dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + self.patch_embed.num_patches, embed_dim))
        self.pos_drop = nn.Dropout(drop_rate)
        attention: dict[str, Any] = {"qkv_bias": qkv_bias, "attn_drop": attn_drop_rate, "drop": drop_rate}
        rates = [drop_path_rate * i / max(1, depth - 1) for i in range(depth)]
        self.blocks = nn.Sequential(*(Block(embed_dim, num_heads, mlp_ratio, skip_lam, r, **attention) for r in rates))
        self.norm = nn.LayerNorm(embed_dim)
        self.reset_classifier(num_classes)
        trunc_normal_(self.cls_token, std=0.02)
        trunc_normal_(self.pos_embed, std=0.02)
        self.apply(_init_linear)

    def forward(self, x: Tensor, box: Tensor | None = None) -> Logits:
        """Logits, or three outputs with return_dense in training mode. box: used instead of a random one."""
        if not (self.training and self.return_dense):
            if box is not None:
                raise ValueError("a MixToken box needs training mode and return_dense=True.")
            return self.forward_head(self.forward_features(x))
        x = self.patch_embed(x)
        if box is None:
            box = draw_box(self.patch_embed.grid_size) if self.mix_token else torch.zeros(4, dtype=torch.long)
        box = box.to(x.device)
        x = self._encode(swap_box(x, box_mask(box, self.patch_embed.grid_size)))
        return self.head(x[:, 0]), self.aux_head(x[:, 1:]), box

    def forward_features(self, x: Tensor) -> Tensor:
        """All tokens after the last norm, the class token first: [B, N, C]. Without MixToken."""
        return self._encode(self.patch_embed(x))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Logits of the class token plus half the maximum of the patch tokens, or features with pre_logits."""
        if pre_logits or self.num_classes == 0:
            return x[:, 0]
        return self.head(x[:, 0]) + 0.5 * self.aux_head(x[:, 1:]).amax(dim=1)

    def _encode(self, x_BPC: Tensor) -> Tensor:
        x = torch.cat([self.cls_token.expand(x_BPC.shape[0], -1, -1), x_BPC], dim=1)
        x = self.pos_drop(x + self.pos_embed)
        x = checkpoint_seq(self.blocks, x) if self.grad_checkpointing else self.blocks(x)
        return self.norm(x)

    def get_classifier(self) -> tuple[nn.Module, nn.Module]:
        """The heads on the class token and on the patch tokens."""
        return self.head, self.aux_head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Make new heads. With 0 classes there is none, and the output is the class token's features."""
        if global_pool not in (None, "token"):
            raise ValueError(f"LV-ViT uses its class token: global_pool must be 'token', not {global_pool!r}.")
        self.num_classes = num_classes
        for name in ("head", "aux_head"):
            head = nn.Linear(self.embed_dim, num_classes) if num_classes > 0 else nn.Identity()
            self.add_module(name, head.apply(_init_linear).to(self.norm.weight).train(self.training))

    def set_input_size(self, img_size: int | Grid) -> None:
        """Resample the position embedding for images of another size."""
        before = self.patch_embed.grid_size
        self.patch_embed.set_input_size(img_size)
        resampled = resample_abs_pos_embed(self.pos_embed.detach(), self.patch_embed.grid_size, before)
        self.pos_embed = nn.Parameter(resampled, requires_grad=self.pos_embed.requires_grad)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the blocks in the backward pass instead of storing their activations."""
        self.grad_checkpointing = enable

    def no_weight_decay(self) -> set[str]:
        """Parameters that no optimiser should decay."""
        return {"pos_embed", "cls_token"}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """The layer of each parameter, for layer-wise learning rates."""
        return {
            "stem": r"^cls_token|pos_embed|patch_embed",
            "blocks": [(r"^blocks\.(\d+)", None), (r"^norm", (99999,))],
        }


def _init_linear(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _cfg(crop_pct: float) -> dict[str, Any]:
    return {
        "input_size": (3, 224, 224),
        "pool_size": None,
        "num_classes": 1000,
        "crop_pct": crop_pct,
        "interpolation": "bicubic",
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
        "first_conv": "patch_embed.conv1",
        "classifier": ("head", "aux_head"),
        "license": "apache-2.0",
    }


default_cfgs = generate_default_cfgs({"lvvit_tiny": _cfg(0.9), "lvvit_small": _cfg(0.9), "lvvit_medium": _cfg(1.0)})


def _build(name: str, pretrained: bool, arguments: dict[str, Any]) -> LVViT:
    if arguments.pop("features_only", False):
        raise ValueError("features_only does not work with LV-ViT: use forward_features().")
    return build_model_with_cfg(LVViT, name, pretrained, **arguments)


@register_model
def lvvit_tiny(pretrained: bool = False, **kwargs: Any) -> LVViT:
    """LV-ViT-T: 8.5 M parameters, 2.9 GMACs at 224 pixels."""
    size = {"embed_dim": 240, "depth": 12, "num_heads": 4, "skip_lam": 1.0}
    return _build("lvvit_tiny", pretrained, size | kwargs)


@register_model
def lvvit_small(pretrained: bool = False, **kwargs: Any) -> LVViT:
    """LV-ViT-S: 26.2 M parameters, 6.6 GMACs at 224 pixels."""
    return _build("lvvit_small", pretrained, {"embed_dim": 384, "depth": 16, "num_heads": 6} | kwargs)


@register_model
def lvvit_medium(pretrained: bool = False, **kwargs: Any) -> LVViT:
    """LV-ViT-M: 55.8 M parameters, 12.7 GMACs at 224 pixels."""
    return _build("lvvit_medium", pretrained, {"embed_dim": 512, "depth": 20, "num_heads": 8} | kwargs)
