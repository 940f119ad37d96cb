"""The model of `vitrim.models.lvvit`: residual branches divided by skip_lam, and a head on every token."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from ..models.lvvit import Block, LVViT
from .reader import Backbone, BlocksLocation, UnsupportedModel, blocks_in, linear_macs
from .timm import PreNormReader, TimmAttention, spec_of

REFUSED = {
    "reset_classifier": "what a method learns depends on the classes: restore(model), then reduce again.",
    "set_input_size": "settings depend on the size: restore(model), then reduce again.",
}


class LVReader(PreNormReader):
    """x + attn(norm1(x)) / skip_lam, then x + mlp(norm2(x)) / skip_lam, with timm's Attention."""

    def add_attention(self, block: Any, x_BNC: Tensor, out_BNC: Tensor) -> Tensor:
        return x_BNC + block.drop_path(out_BNC) / block.skip_lam

    def add_mlp(self, block: Any, x_BNC: Tensor) -> Tensor:
        return x_BNC + block.drop_path(block.mlp(block.norm2(x_BNC))) / block.skip_lam


READER = LVReader()


def locate(model: nn.Module) -> BlocksLocation | None:
    """Where the model keeps its blocks; None if it is not an LV-ViT."""
    return BlocksLocation(model, "blocks", REFUSED) if isinstance(model, LVViT) else None


def read(model: LVViT) -> Backbone:
    """The backbone of an LV-ViT."""
    blocks = blocks_in(model.blocks)
    for i, block in enumerate(blocks):
        parts = (block, getattr(block, "attn", None))
        if [type(part) for part in parts] != [Block, TimmAttention]:
            names = " with a ".join(type(part).__name__ for part in parts)
            raise UnsupportedModel(f"block {i} is a {names}, but vitrim reads LV-ViT's Block with timm's Attention.")
    plain = spec_of(model, pools_patches=False)  # the head takes a maximum, for which sizes do not matter
    spec = replace(plain, head_macs=linear_macs(model.aux_head))
    return Backbone("vitrim", BlocksLocation(model, "blocks", REFUSED), model.blocks, [READER] * len(blocks), spec)
