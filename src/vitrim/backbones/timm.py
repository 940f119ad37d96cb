"""timm's Vision Transformers: ViT, DeiT (distilled too), DeiT-III, DINOv2, CLIP and SigLIP vision towers.

Models with rotary positions (DINOv3, EVA02, Perception Encoder) are of the class Eva, whose blocks timm_eva.py reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from timm.layers import Attention as TimmAttention
from timm.models.eva import Eva
from timm.models.vision_transformer import Block, ResPostBlock, VisionTransformer
from torch import Tensor, nn

from ..core.attention import Attention
from ..core.block_reader import BlockReader, through
from ..core.spec import ViTSpec
from ..heads import num_classes
from . import timm_eva
from .reader import Backbone, BlocksLocation, UnsupportedModel, blocks_in, check_pooling, linear_macs, version

OFF_GRID = (
    "reduced features are not on the patch grid. Use vitrim.features(model, images) for maps on the grid, "
    "vitrim.trace(model) for the token of each patch, or restore(model) first."
)
MODELS = (VisionTransformer, Eva)
REFUSED = {
    "forward_intermediates": OFF_GRID,
    "get_intermediate_layers": OFF_GRID,
    "prune_intermediate_layers": "restore(model) first.",
}


class PreNormReader(timm_eva.PreNorm):
    """timm's Block: x + ls1(attn(norm1(x))), then x + ls2(mlp(norm2(x)))."""

    def attention(self, block: Any, x_BNC: Tensor) -> Attention:
        return _split(block.attn, x_BNC)

    def add_attention(self, block: Any, x_BNC: Tensor, out_BNC: Tensor) -> Tensor:
        return x_BNC + through(out_BNC, block.ls1, block.drop_path1)

    def add_mlp(self, block: Any, x_BNC: Tensor) -> Tensor:
        return x_BNC + through(block.mlp(block.norm2(x_BNC)), block.ls2, block.drop_path2)


class PostNormReader(timm_eva.PostNorm, PreNormReader):
    """timm's ResPostBlock: x + norm1(attn(x)), then x + norm2(mlp(x))."""


READERS: dict[type[nn.Module], BlockReader] = {
    Block: PreNormReader(),
    ResPostBlock: PostNormReader(),
    **timm_eva.READERS,
}


def locate(model: nn.Module) -> BlocksLocation | None:
    """Where the model keeps its blocks; None if it is not a Vision Transformer."""
    if not isinstance(model, MODELS):
        return None
    refused = {name: why for name, why in REFUSED.items() if hasattr(type(model), name)}
    return BlocksLocation(model, "blocks", refused, guards=[(model, refuse_new_pooling)])


def pools(model: Any) -> bool:
    """Whether the output depends on each patch token, because they are pooled or returned."""
    return model.attn_pool is not None or model.global_pool != "token"


def refuse_new_pooling(model: Any, _: tuple[Any, ...], __: dict[str, Any]) -> None:
    """Refuse a pool that was set after the reduction and would count a merged token once."""
    if pools(model):
        check_pooling(model.blocks, f"global_pool={model.global_pool!r}")


def read(model: nn.Module, readers_of: Mapping[type[nn.Module], BlockReader] = READERS) -> Backbone:
    """The backbone of a timm model. UnsupportedModel if it is neither a plain Vision Transformer nor an Eva.

    readers_of: a reader for each class of blocks.
    """
    name = _name(model)
    where = locate(model)
    if where is None:
        raise UnsupportedModel(
            f"{name} is a {type(model).__name__}: of timm's models, vitrim reads the Vision Transformers of class "
            f"VisionTransformer (ViT, DeiT, DINOv2, CLIP, SigLIP) and Eva (DINOv3, EVA, EVA02, Perception Encoder, "
            f"ViTs with RoPE) of {version('timm')}."
        )
    assert isinstance(model, MODELS)
    blocks = blocks_in(model.blocks)
    readers = [_reader(block, i, name, readers_of) for i, block in enumerate(blocks)]
    if isinstance(model, Eva) and len({linear_macs(block.attn) for block in blocks}) > 1:
        raise UnsupportedModel(
            f"{name}: vitrim cannot read a model whose blocks differ in how many heads share keys and values."
        )
    return Backbone("timm", where, model.blocks, readers, spec_of(model, pools(model)))


def spec_of(model: Any, pools_patches: bool) -> ViTSpec:
    """The facts about a model with timm's names. Without classes, it returns all patches, as if it pooled them."""
    block, classes = next(iter(model.blocks)), num_classes(model) or 0
    return ViTSpec(
        name=_name(model),
        depth=len(model.blocks),
        num_prefix=model.num_prefix_tokens,
        has_cls=model.cls_token is not None,
        pools_patches=pools_patches or classes == 0,
        num_patches=model.patch_embed.num_patches,
        channels=model.embed_dim,
        num_heads=block.attn.num_heads,
        attention_channels=block.attn.proj.in_features,
        attention_macs=linear_macs(block.attn),
        mlp_macs=linear_macs(block.mlp),
        num_classes=classes,
    )


def _reader(block: Any, index: int, name: str, readers_of: Mapping[type[nn.Module], BlockReader]) -> BlockReader:
    reader = readers_of.get(type(block))
    if reader is None:
        wanted = ", ".join(cls.__name__ for cls in READERS)
        raise UnsupportedModel(
            f"{name}: block {index} is a {type(block).__name__}, but vitrim reads {wanted} of {version('timm')}."
        )
    attentions = timm_eva.ATTENTIONS if type(block) in timm_eva.READERS else (TimmAttention,)
    if type(block.attn) not in attentions:
        wanted = " and ".join(cls.__name__ for cls in attentions)
        raise UnsupportedModel(
            f"{name}: the attention of block {index} is a {type(block.attn).__name__}, but in such a block vitrim "
            f"reads timm's {wanted} ({version('timm')})."
        )
    if type(block.attn.attn_drop) not in (nn.Dropout, nn.Identity):
        raise UnsupportedModel(
            f"{name}: the attention dropout of block {index} is a {type(block.attn.attn_drop).__name__}, but vitrim "
            "reads nn.Dropout."
        )
    if getattr(block.attn, "gate", None) is not None:
        raise UnsupportedModel(f"{name}: block {index} has gated attention, which vitrim does not read.")
    return reader


def _name(model: Any) -> str:
    cfg = getattr(model, "pretrained_cfg", None) or {}
    return cfg.get("architecture") or type(model).__name__


def _split(attn: Any, x_BNC: Tensor) -> Attention:
    B, N, _ = x_BNC.shape
    q, k, v = attn.qkv(x_BNC).reshape(B, N, 3, attn.num_heads, attn.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
    q, k = through(q, attn.q_norm), through(k, attn.k_norm)
    return Attention(q, k, v, timm_eva.scale_of(attn), dropout=timm_eva.dropout_of(attn))
