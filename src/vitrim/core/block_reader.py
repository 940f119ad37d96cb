"""What `TokenStack` needs to know of one class of blocks. Whether it is known rightly, `self_check` tells."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from . import packing
from .attention import Attention
from .rotary import Rotation
from .tokens import Tokens

Step = Callable[[Tokens, Rotation | None], Tokens]  # one block
MASKED = "a model with reduced tokens takes no attention mask: its tokens move; restore it first."


class BlockReader(ABC):
    """How to read one class of blocks of one library. Stateless; one instance serves all blocks of the class."""

    shared: tuple[str, ...] = ()  # plain attributes that the library sets on each block from outside, at any time
    opaque: bool = False  # whether such a block only runs as a whole: see OpaqueReader
    attention_name: str = "attn"  # the child whose parts are read, and whose forward is not called

    def is_exact(self, block: Any) -> bool:
        """Whether what is read gives the block's own numbers to the last bit, as the block is set now."""
        return True

    @abstractmethod
    def attention(self, block: Any, x_BNC: Tensor) -> Attention:
        """Norm, projection and split of the block's input."""

    @abstractmethod
    def add_attention(self, block: Any, x_BNC: Tensor, mixed_BHND: Tensor) -> Tensor:
        """x plus the attention residual (output projection, LayerScale and drop-path included)."""

    @abstractmethod
    def add_mlp(self, block: Any, x_BNC: Tensor) -> Tensor:
        """x plus the MLP residual (norm, LayerScale and drop-path included)."""

    def rotation(self, *args: Any, **kwargs: Any) -> Rotation | None:
        """The table of rotations among what the library calls a block with; None for a block without."""
        return None

    def turn(self, block: Any, attention: Attention, rows: Tensor) -> Attention:
        """Queries and keys of the last tokens, as many as there are rows, turned by them. See `Rotation.rows`."""
        raise NotImplementedError(f"{type(self).__name__} knows a table of rotations, and not what to do with it.")

    def check_call(self, *args: Any, **kwargs: Any) -> None:
        """ValueError for anything beside the features, with which the library calls a block, that cannot be heeded."""
        if (args or kwargs) and any(value is not None and value is not False for value in (*args, *kwargs.values())):
            raise ValueError(MASKED)

    def run(self, block: Any, step: Step, tokens: Tokens, rotation: Rotation | None) -> Tokens:
        """step(tokens, rotation), as the library runs such a block: checkpointed, say, if that was asked."""
        return step(tokens, rotation)

    def example(self, block: Any, num_patches: int, generator: torch.Generator) -> dict[str, Any]:
        """What the self-check calls a block with beside the features; random where it may be."""
        return {}

    def whole(self, block: Any, x_BNC: Tensor, rotation: Rotation | None = None) -> Tensor:
        """The output of the block itself, as the library computes it."""
        out: Tensor = block.forward(x_BNC)
        return out


def through(x: Tensor, *modules: nn.Module) -> Tensor:
    """x through one module after another, without calling those that do nothing: blocks are full of them."""
    for module in modules:
        idle = type(module) is nn.Identity or (type(module) is nn.Dropout and not module.training)
        if not idle or _is_watched(module):
            x = module(x)
    return x


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _is_watched(module: nn.Module) -> bool:
    """Whether it has hooks. Asked once if compiled, as torch does: what was looked up would be checked at every run."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


class OpaqueReader(BlockReader):
    """For a block that only runs as a whole, whatever sequence it takes. Such blocks come first, and no method acts."""

    opaque = True

    def attention(self, block: Any, x_BNC: Tensor) -> Attention:
        raise RuntimeError(f"the attention of a {type(block).__name__} cannot be read: the block only runs as a whole.")

    add_attention = add_mlp = attention  # type: ignore[assignment]


class PaddingReader(BlockReader):
    """A reader's residuals of packed images (see `Tokens`), added to padded ones."""

    def __init__(self, reader: BlockReader, lengths: packing.Lengths):
        self.reader, self.lengths = reader, lengths

    def attention(self, block: Any, x_BNC: Tensor) -> Attention:
        return self.reader.attention(block, x_BNC)

    def add_attention(self, block: Any, x_BNC: Tensor, mixed_BHND: Tensor) -> Tensor:
        padded_BNC = packing.pad(x_BNC[0], self.lengths)
        padded_BNHD = packing.pad(mixed_BHND[0].transpose(0, 1), self.lengths)
        added_BNC = self.reader.add_attention(block, padded_BNC, padded_BNHD.transpose(1, 2))
        return packing.pack(added_BNC, self.lengths).unsqueeze(0)

    def add_mlp(self, block: Any, x_BNC: Tensor) -> Tensor:
        added_BNC = self.reader.add_mlp(block, packing.pad(x_BNC[0], self.lengths))
        return packing.pack(added_BNC, self.lengths).unsqueeze(0)
