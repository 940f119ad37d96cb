"""The facts about one model that methods and formulas need."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ViTSpec:
    """The facts about a Vision Transformer that methods and formulas need."""

    name: str
    depth: int
    num_prefix: int  # class, distillation and register tokens
    has_cls: bool  # whether the first token is a class token
    pools_patches: bool  # whether patch tokens are averaged, or otherwise pooled, after the last block
    num_patches: int  # at the model's own resolution
    channels: int
    num_heads: int
    attention_channels: int  # heads times channels per head
    attention_macs: int  # multiply-adds per token in the projections of one block's attention
    mlp_macs: int  # multiply-adds per token in one block's MLP
    num_classes: int = 0  # of the classifier; 0 if there is none, or its classes are unknown
    head_macs: int = 0  # multiply-adds per patch token in a head that reads all of them
    first_reducible_layer: int = 0  # the blocks before it cannot be read: no method is active there, no hook is called
    unreadable_macs: int = 0  # multiply-adds of those blocks for one image, at the model's own resolution

    @property
    def reads_patches(self) -> bool:
        """Whether anything behind the last block reads its patch tokens."""
        return self.pools_patches or self.head_macs > 0

    @property
    def head_channels(self) -> int:
        """Channels per head."""
        return self.attention_channels // self.num_heads
