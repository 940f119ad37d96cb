"""open_clip's vision towers, its own and those of timm, alone or inside a whole model."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from open_clip import transformer as library
from open_clip.timm_model import TimmModel
from open_clip.transformer import CustomResidualAttentionBlock, ResidualAttentionBlock, Transformer, VisionTransformer
from torch import Tensor, nn

from ..core.attention import Attention
from ..core.block_reader import BlockReader
from ..core.multihead import MultiheadReader, multihead_macs, why_unreadable
from ..core.spec import ViTSpec
from . import timm
from .reader import Backbone, BlocksLocation, UnsupportedModel, blocks_in, check_pooling, linear_macs, version

REFUSED = {name: timm.REFUSED[name] for name in ("forward_intermediates", "prune_intermediate_layers")}


class ResidualReader(MultiheadReader):
    """x + ls_1(attn(ln_1(x))), then x + ls_2(mlp(ln_2(x))), with torch's nn.MultiheadAttention."""

    def add_attention(self, block: Any, x_BNC: Tensor, out_BNC: Tensor) -> Tensor:
        return x_BNC + block.ls_1(out_BNC)

    def add_mlp(self, block: Any, x_BNC: Tensor) -> Tensor:
        return x_BNC + block.ls_2(block.mlp(block.ln_2(x_BNC)))


class CustomReader(ResidualReader):
    """The same with open_clip's own attention, which may norm queries and keys, scale heads, and norm inside."""

    inputs, pairs = 1, False

    def is_exact(self, block: Any) -> bool:
        return True

    def attention(self, block: Any, x_BNC: Tensor) -> Attention:
        attn = block.attn
        B, N, _ = x_BNC.shape
        packed = F.linear(x_BNC, attn.in_proj_weight, attn.in_proj_bias)
        q, k, v = packed.reshape(B, N, 3, attn.num_heads, attn.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
        dropout = attn.attn_drop.p if attn.training else 0.0
        return Attention(attn.ln_q(q), attn.ln_k(k), v, attn.scale, dropout=dropout)

    def leave(self, block: Any, mixed_BHND: Tensor) -> Tensor:
        attn = block.attn
        mixed = mixed_BHND if attn.head_scale is None else mixed_BHND * attn.head_scale
        return attn.out_drop(attn.out_proj(attn.ln_inner(mixed.transpose(1, 2).flatten(2))))

    def add_attention(self, block: Any, x_BNC: Tensor, out_BNC: Tensor) -> Tensor:
        return x_BNC + block.ls_1(block.ln_attn(out_BNC))


RESIDUAL, CUSTOM = ResidualReader(), CustomReader()


def locate(model: nn.Module) -> BlocksLocation | None:
    """Where the vision tower keeps its blocks; None if it is not a Vision Transformer."""
    tower = _tower(model)
    if isinstance(tower, TimmModel):
        return timm.locate(tower.trunk)
    if isinstance(tower, VisionTransformer) and isinstance(tower.transformer, Transformer):
        return BlocksLocation(tower.transformer, "resblocks", REFUSED, guards=[(tower, refuse_new_pooling)])
    return None


def pools(tower: Any) -> bool:
    """Whether the output depends on each patch token."""
    return bool(tower.attn_pool is not None or tower.pool_type != "tok" or tower.output_tokens)


def refuse_new_pooling(tower: Any, _: tuple[Any, ...], __: dict[str, Any]) -> None:
    """Refuse a pool that was set after the reduction and would count a merged token once."""
    if pools(tower):
        check_pooling(
            tower.transformer.resblocks, f"pool_type={tower.pool_type!r}, output_tokens={tower.output_tokens}"
        )


def read(model: nn.Module) -> Backbone:
    """The backbone of an open_clip vision tower. UnsupportedModel if it is not a Vision Transformer."""
    tower: Any = _tower(model)
    if isinstance(tower, TimmModel):
        return timm.read(tower.trunk)
    where = locate(tower)
    if where is None:
        raise UnsupportedModel(
            f"{type(tower).__name__}: of open_clip's models, vitrim reads vision towers that are a VisionTransformer "
            f"or a TimmModel with one, of {version('open_clip')}. A text tower cannot be reduced."
        )
    if not where.parent.batch_first:
        raise UnsupportedModel("VisionTransformer of open_clip: its tokens come before the batch (batch_first=False).")
    blocks = blocks_in(tower.transformer.resblocks)
    readers = [_reader(block, i) for i, block in enumerate(blocks)]
    channels = tower.transformer.width
    spec = ViTSpec(
        name="VisionTransformer of open_clip",
        depth=len(blocks),
        num_prefix=1,
        has_cls=True,
        pools_patches=pools(tower),
        num_patches=tower.grid_size[0] * tower.grid_size[1],
        channels=channels,
        num_heads=blocks[0].attn.num_heads,
        attention_channels=channels,
        attention_macs=multihead_macs(blocks[0].attn),
        mlp_macs=linear_macs(blocks[0].mlp),
    )
    return Backbone("open_clip", where, tower.transformer.resblocks, readers, spec)


def _tower(model: nn.Module) -> nn.Module:
    """The vision tower of a whole model, or the model if it is a tower."""
    visual = getattr(model, "visual", None)
    return visual if isinstance(visual, nn.Module) else model


def _reader(block: Any, index: int) -> BlockReader:
    reason: str | None
    if type(block) is ResidualAttentionBlock:
        reason = why_unreadable(block.attn)
    elif type(block) is CustomResidualAttentionBlock and type(block.attn) is library.Attention:
        reason = None if block.attn.logit_scale is None else "its attention is a scaled cosine"
    else:
        reason = "vitrim reads ResidualAttentionBlock and CustomResidualAttentionBlock"
    if reason is not None:
        raise UnsupportedModel(
            f"VisionTransformer: block {index} ({type(block).__name__}, {version('open_clip')}) cannot be read: "
            f"{reason}."
        )
    return RESIDUAL if type(block) is ResidualAttentionBlock else CUSTOM
