"""torchvision's Vision Transformers: vit_b_16 to vit_h_14."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torchvision.models.vision_transformer import EncoderBlock, VisionTransformer

from ..core.multihead import MultiheadReader, multihead_macs, why_unreadable
from ..core.spec import ViTSpec
from ..heads import num_classes
from .reader import Backbone, BlocksLocation, UnsupportedModel, blocks_in, linear_macs, version


class EncoderBlockReader(MultiheadReader):
    """x + dropout(self_attention(ln_1(x))), then x + mlp(ln_2(x))."""

    attention_name = "self_attention"

    def add_attention(self, block: Any, x_BNC: Tensor, out_BNC: Tensor) -> Tensor:
        return x_BNC + block.dropout(out_BNC)

    def add_mlp(self, block: Any, x_BNC: Tensor) -> Tensor:
        return x_BNC + block.mlp(block.ln_2(x_BNC))


READER = EncoderBlockReader()


def locate(model: nn.Module) -> BlocksLocation | None:
    """Where the model keeps its blocks; None if it is not a Vision Transformer."""
    return BlocksLocation(model.encoder, "layers") if isinstance(model, VisionTransformer) else None


def read(model: nn.Module) -> Backbone:
    """The backbone of a torchvision model. UnsupportedModel if it is not a plain Vision Transformer."""
    name = type(model).__name__
    if not isinstance(model, VisionTransformer):
        raise UnsupportedModel(
            f"{name}: of torchvision's models, vitrim reads a whole VisionTransformer (vit_b_16 to vit_h_14) of "
            f"{version('torchvision')}."
        )
    blocks = blocks_in(model.encoder.layers)
    for i, block in enumerate(blocks):
        if type(block) is not EncoderBlock:
            raise UnsupportedModel(
                f"{name}: block {i} is a {type(block).__name__}, but vitrim reads EncoderBlock of "
                f"{version('torchvision')}."
            )
        if (reason := why_unreadable(block.self_attention)) is not None:
            raise UnsupportedModel(f"{name}: block {i} ({version('torchvision')}) cannot be read: {reason}.")
    classes = num_classes(model) or 0
    spec = ViTSpec(
        name=name,
        depth=len(blocks),
        num_prefix=1,
        has_cls=True,
        pools_patches=classes == 0,
        num_patches=model.seq_length - 1,
        channels=model.hidden_dim,
        num_heads=blocks[0].num_heads,
        attention_channels=model.hidden_dim,
        attention_macs=multihead_macs(blocks[0].self_attention),
        mlp_macs=linear_macs(blocks[0].mlp),
        num_classes=classes,
    )
    return Backbone(
        "torchvision", BlocksLocation(model.encoder, "layers"), model.encoder.layers, [READER] * len(blocks), spec
    )
