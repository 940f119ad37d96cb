"""What `TokenStack` needs to know of one class of blocks, and the check that it is known rightly."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .attention import Attention
from .tokens import Tokens

MASKED = "a model with reduced tokens takes no attention mask: its tokens move; restore it first."


class BlockReader(ABC):
    """How to read one class of blocks of one library. Stateless; one instance serves all blocks of the class."""

    shared: tuple[str, ...] = ()  # plain attributes that the library sets on each block from outside, at any time

    @abstractmethod
    def attention(self, block: Any, x_BNC: Tensor) -> Attention:
        """Norm, projection and split of the block's input."""

    @abstractmethod
    def add_attention(self, block: Any, x_BNC: Tensor, mixed_BHND: Tensor) -> Tensor:
        """x plus the attention residual (output projection, LayerScale and drop-path included)."""

    @abstractmethod
    def add_mlp(self, block: Any, x_BNC: Tensor) -> Tensor:
        """x plus the MLP residual (norm, LayerScale and drop-path included)."""

    def check_call(self, *args: Any, **kwargs: Any) -> None:
        """ValueError for anything beside the features, with which the library calls a block, that cannot be heeded."""
        if any(value is not None and value is not False for value in (*args, *kwargs.values())):
            raise ValueError(MASKED)

    def run(self, block: Any, step: Callable[[Tokens], Tokens], tokens: Tokens) -> Tokens:
        """step(tokens), in the way in which the library runs such a block: checkpointed, say, if that was asked."""
        return step(tokens)

    def plain(self, block: Any, x_BNC: Tensor) -> Tensor:
        """The output of the block itself, for the self-check."""
        out: Tensor = block(x_BNC)
        return out


class OpaqueReader(BlockReader):
    """For a block that only runs as a whole, whatever sequence it takes. Such blocks come first, and no method acts."""

    def attention(self, block: Any, x_BNC: Tensor) -> Attention:
        raise RuntimeError(f"the attention of a {type(block).__name__} cannot be read: the block only runs as a whole.")

    add_attention = add_mlp = attention  # type: ignore[assignment]


@torch.no_grad()
def check_reader(block: nn.Module, reader: BlockReader, channels: int) -> float:
    """Relative difference between the residual updates of the block and of its reader, on random input.

    Updates, not outputs, are compared: under a small LayerScale a wrong reader hardly shows in the output. It is
    done on a copy, without the user's hooks, and not in half precision, where a small update vanishes. 0 where the
    weights are on the meta device, or the block is not taken apart.
    """
    weight = next(block.parameters())
    if weight.is_meta or isinstance(reader, OpaqueReader):
        return 0.0
    block = copy.deepcopy(block).eval().to(torch.promote_types(weight.dtype, torch.float32))
    for module in block.modules():
        module._forward_hooks.clear()
        module._forward_pre_hooks.clear()
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 17, channels, generator=generator).to(weight.device, next(block.parameters()).dtype)
    wanted = reader.plain(block, x) - x
    read = reader.add_attention(block, x, reader.attention(block, x).output())
    got = reader.add_mlp(block, read) - x
    return float((got - wanted).norm() / wanted.norm().clamp(min=1e-30))
