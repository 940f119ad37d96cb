"""The blocks of timm's Eva class: EVA, EVA02, DINOv3, Perception Encoder, and the ViTs of timm and Naver with RoPE.

timm passes rotary positions to each block as `rope`: [P, 2D], sines first; [H, P, 2D] per block if they are learned;
one table per image with patch dropout. The prefix is not rotated.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import AttentionRope, apply_rot_embed_cat
from timm.models.eva import EvaAttention, EvaBlock, EvaBlockPostNorm
from torch import Tensor, nn

from ..core.attention import Attention
from ..core.block_reader import BlockReader, own_forward, through
from ..core.hooks import has_hooks
from ..core.rotary import Rotation

ATTENTIONS = (EvaAttention, AttentionRope)


class PreNorm(BlockReader):
    """The norm before an attention of timm, and the end of that attention."""

    def is_exact(self, block: Any) -> bool:
        return is_fused(block.attn)

    def enter(self, block: Any, x_BNC: Tensor) -> Tensor:
        return block.norm1(x_BNC)

    def leave(self, block: Any, mixed_BHND: Tensor) -> Tensor:
        return project(block.attn, mixed_BHND)


class EvaReader(PreNorm):
    """EvaBlock: x + gamma_1 * attn(norm1(x)), then x + gamma_2 * mlp(norm2(x)). The scales are optional."""

    def own_output(self, block: Any, x_BNC: Tensor, rotation: Rotation | None = None) -> Tensor:
        return own_forward(block)(x_BNC, rope=None if rotation is None else rotation.table)

    def attention(self, block: Any, x_BNC: Tensor) -> Attention:
        return _split(block.attn, x_BNC)

    def add_attention(self, block: Any, x_BNC: Tensor, out_BNC: Tensor) -> Tensor:
        return x_BNC + through(_scaled(block.gamma_1, out_BNC), block.drop_path1)

    def add_mlp(self, block: Any, x_BNC: Tensor) -> Tensor:
        return x_BNC + through(_scaled(block.gamma_2, block.mlp(block.norm2(x_BNC))), block.drop_path2)

    def rotation(self, rope: Tensor | None = None, *_: Any, **__: Any) -> Rotation | None:
        return None if rope is None else Rotation(rope)

    def apply_rope(self, block: Any, attention: Attention, rows: Tensor) -> Attention:
        half = getattr(block.attn, "rotate_half", False)
        first = attention.q_BHND.shape[2] - rows.shape[-2]
        q, k = (
            torch.cat([x[:, :, :first], apply_rot_embed_cat(x[:, :, first:], rows, half=half)], dim=2).type_as(
                attention.v_BHND
            )
            for x in (attention.q_BHND, attention.k_BHND)
        )
        return attention._replace(q_BHND=q, k_BHND=k)

    def check_call(self, rope: Tensor | None = None, *masks: Any, **kwargs: Any) -> None:
        super().check_call(*masks, **kwargs)

    def example(self, block: Any, num_patches: int, generator: torch.Generator) -> dict[str, Any]:
        return {"rope": torch.randn(num_patches, 2 * block.attn.head_dim, generator=generator)}


class PostNorm(BlockReader):
    """The norms and residuals of blocks that norm after the attention and after the MLP."""

    def enter(self, block: Any, x_BNC: Tensor) -> Tensor:
        return x_BNC

    def add_attention(self, block: Any, x_BNC: Tensor, out_BNC: Tensor) -> Tensor:
        return x_BNC + through(out_BNC, block.norm1, block.drop_path1)

    def add_mlp(self, block: Any, x_BNC: Tensor) -> Tensor:
        return x_BNC + through(block.mlp(x_BNC), block.norm2, block.drop_path2)


class EvaPostNormReader(PostNorm, EvaReader):
    """EvaBlockPostNorm: x + norm1(attn(x)), then x + norm2(mlp(x))."""


READERS: dict[type[nn.Module], BlockReader] = {EvaBlock: EvaReader(), EvaBlockPostNorm: EvaPostNormReader()}


def _split(attn: Any, x_BNC: Tensor) -> Attention:
    if attn.qkv is not None:
        B, N, _ = x_BNC.shape
        q, k, v = _fused(attn, x_BNC).reshape(B, N, 3, attn.num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
    else:
        parts = (projection(x_BNC) for projection in (attn.q_proj, attn.k_proj, attn.v_proj))
        q, k, v = (part.unflatten(2, (-1, attn.head_dim)).transpose(1, 2) for part in parts)
    q, k = through(q, attn.q_norm), through(k, attn.k_norm)
    groups = q.shape[1] // k.shape[1]
    if groups > 1:  # several query heads share one head of keys and values
        k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
    return Attention(q, k, v, scale_of(attn), dropout=dropout_of(attn))


def _fused(attn: Any, x_BNC: Tensor) -> Tensor:
    """The projection to queries, keys and values. An EvaAttention has no learned bias for keys."""
    if getattr(attn, "q_bias", None) is None:
        return attn.qkv(x_BNC)
    bias = torch.cat((attn.q_bias, attn.k_bias, attn.v_bias))
    if attn.qkv_bias_separate:
        return attn.qkv(x_BNC) + bias
    return F.linear(x_BNC, attn.qkv.weight, bias)


def is_fused(attn: Any) -> bool:
    """Whether timm runs this attention through the fused kernel, see timm.layers.set_fused_attn."""
    return bool(attn.fused_attn)


def scale_of(attn: Any) -> float:
    """The scale of the logits. torch's own for the fused kernel differs from timm's in the last bit of float64."""
    return 1 / math.sqrt(attn.head_dim) if is_fused(attn) else attn.scale


def dropout_of(attn: Any) -> float:
    """Dropout of the attention, by the mode of the module that timm asks."""
    drop, fused = attn.attn_drop, is_fused(attn)
    if not fused and has_hooks(drop):
        raise ValueError(
            "a hook on attn_drop needs the attention matrix, which a reduced model never forms: use "
            "vitrim.trace(model) for the token of each patch, or restore(model) first."
        )
    return getattr(drop, "p", 0.0) if (attn if fused else drop).training else 0.0


def project(attn: Any, mixed_BHND: Tensor) -> Tensor:
    """The end of all attentions in timm, from heads to channels: [B, H, N, D] -> [B, N, C]."""
    return through(mixed_BHND.transpose(1, 2).flatten(2), attn.norm, attn.proj, attn.proj_drop)


def _scaled(gamma: Tensor | None, x_BNC: Tensor) -> Tensor:
    return x_BNC if gamma is None else gamma * x_BNC
