"""The multi-scale models of `vitrim.models.multiscale`. Their first blocks cannot be read, the others are timm's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import nn

from ..core.block_reader import UnreadableReader
from ..core.spec import ViTSpec
from ..models.multiscale import MultiscaleBlock, MultiscaleViT
from . import timm
from .reader import Backbone, BlocksLocation

READERS = {**timm.READERS, MultiscaleBlock: UnreadableReader()}


def locate(model: nn.Module) -> BlocksLocation | None:
    """Where the model keeps its blocks; None if it is not a multi-scale model."""
    return timm.locate(model) if isinstance(model, MultiscaleViT) else None


def read(model: Any) -> Backbone:
    """The backbone of a multi-scale model, which can be reduced from block `fusion_layer` on."""
    backbone = timm.read(model, READERS)
    unreadable_macs = _unreadable_macs(model, backbone.spec)
    return replace(
        backbone, spec=replace(backbone.spec, first_reducible_layer=model.fusion_layer, unreadable_macs=unreadable_macs)
    )


def _unreadable_macs(model: Any, spec: ViTSpec) -> int:
    """Multiply-adds of the blocks with both groups, for one image."""
    high, low = 1 + spec.num_patches, 1 + spec.num_patches // 4
    attention = 2 * (low * spec.attention_macs + 2 * low**2 * spec.attention_channels)  # 2x2 means, then low tokens
    block = attention + (high + low) * spec.mlp_macs
    kernels = model.blocks[model.fusion_layer - 1].fusion.children()
    fusion = spec.num_patches * sum(convolution.weight.numel() for convolution in kernels)
    return int(model.fusion_layer * block + fusion)
