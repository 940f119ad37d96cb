"""What `TokenStack` needs to know of one class of blocks. Whether it is known rightly, `self_check` tells."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from . import packing
from .attention import Attention
from .hooks import has_hooks
from .rotary import Rotation
from .tokens import Tokens

Step = Callable[[Tokens, Rotation | None], Tokens]  # one block
MASKED = "a model with reduced tokens takes no attention mask: its tokens move; restore it first."


class BlockReader(ABC):
    """How to read one class of blocks of one library. Stateless; one instance serves all blocks of the class."""

    unreadable: bool = False  # whether the block can only be called, see `UnreadableReader`
    attention_name: str = "attn"  # the child whose parts are read, and whose forward is not called

    # How the library calls the attention, for those who listen to it: once with the features, or with them as queries,
    # keys and values; it returns features, or a pair with its matrix, which is None here.
    inputs: int = 1
    pairs: bool = False

    def is_exact(self, block: Any) -> bool:
        """Whether what is read gives the block's own numbers to the last bit, as the block is set now."""
        return True

    @abstractmethod
    def enter(self, block: Any, x_BNC: Tensor) -> Tensor:
        """What the block calls its attention with: the norm of its input, say."""

    @abstractmethod
    def attention(self, block: Any, x_BNC: Tensor) -> Attention:
        """Projection and split of what enters the attention."""

    @abstractmethod
    def leave(self, block: Any, mixed_BHND: Tensor) -> Tensor:
        """What the attention returns: the output projection of what the heads mixed. [B, N, C]"""

    @abstractmethod
    def add_attention(self, block: Any, x_BNC: Tensor, out_BNC: Tensor) -> Tensor:
        """x plus the attention residual (what left the attention; LayerScale and drop-path included)."""

    @abstractmethod
    def add_mlp(self, block: Any, x_BNC: Tensor) -> Tensor:
        """x plus the MLP residual (norm, LayerScale and drop-path included)."""

    def rotation(self, *args: Any, **kwargs: Any) -> Rotation | None:
        """The table of rotations among what the library calls a block with; None for a block without."""
        return None

    def apply_rope(self, block: Any, attention: Attention, rows: Tensor) -> Attention:
        """Apply the given rotary rows (`Rotation.rows`) to the queries and keys of the last K tokens."""
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

    def own_output(self, block: Any, x_BNC: Tensor, rotation: Rotation | None = None) -> Tensor:
        """The block's own output, as the library computes it."""
        out: Tensor = own_forward(block)(x_BNC)
        return out


def own_forward(block: Any) -> Callable[..., Any]:
    """What the block itself computes, features in and out; also of a block that reduces tokens now."""
    own: Callable[..., Any] = getattr(block, "own_forward", block.forward)
    return own


def through(x: Tensor, *modules: nn.Module) -> Tensor:
    """x through one module after another, without calling those that do nothing: blocks are full of them."""
    for module in modules:
        idle = type(module) is nn.Identity or (type(module) is nn.Dropout and not module.training)
        if not idle or has_hooks(module):
            x = module(x)
    return x


class UnreadableReader(BlockReader):
    """For a block that can only be called. Such blocks come first, and no method is active in them."""

    unreadable = True

    def attention(self, block: Any, x_BNC: Tensor) -> Attention:
        raise RuntimeError(f"the attention of a {type(block).__name__} cannot be read: the block only runs as a whole.")

    enter = leave = add_attention = add_mlp = attention  # type: ignore[assignment]


class PaddingReader(BlockReader):
    """A reader's residuals of packed images (see `Tokens`), added to padded ones."""

    def __init__(self, reader: BlockReader, lengths: packing.Lengths):
        self.reader, self.lengths = reader, lengths

    def enter(self, block: Any, x_BNC: Tensor) -> Tensor:
        return self.reader.enter(block, x_BNC)

    def attention(self, block: Any, x_BNC: Tensor) -> Attention:
        return self.reader.attention(block, x_BNC)

    def leave(self, block: Any, mixed_BHND: Tensor) -> Tensor:
        return self.reader.leave(block, mixed_BHND)

    def add_attention(self, block: Any, x_BNC: Tensor, out_BNC: Tensor) -> Tensor:
        x_BNC, out_BNC = (packing.pad(rows_BNC[0], self.lengths) for rows_BNC in (x_BNC, out_BNC))
        return packing.pack(self.reader.add_attention(block, x_BNC, out_BNC), self.lengths).unsqueeze(0)

    def add_mlp(self, block: Any, x_BNC: Tensor) -> Tensor:
        return packing.pack(self.reader.add_mlp(block, packing.pad(x_BNC[0], self.lengths)), self.lengths).unsqueeze(0)
