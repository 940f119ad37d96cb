"""How to read one class of blocks. `self_check` verifies each reader on the model at hand."""

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
MASKED = "a reduced model takes no attention mask, because its tokens move: restore(model) first."


class BlockReader(ABC):
    """How to read one class of blocks of one library. It has no state: one instance serves all blocks of the class."""

    unreadable: bool = False  # whether the block can only be called, see `UnreadableReader`
    attention_name: str = "attn"  # the child whose parts are read, and whose forward is not called

    # How the library calls the attention, so that hooks on it see the same: with the features, or with them three
    # times as queries, keys and values. It returns features, or a pair whose second part, the matrix, is None here.
    inputs: int = 1
    pairs: bool = False

    def is_exact(self, block: Any) -> bool:
        """Whether the reader is bit-identical to the block, as the block is set now."""
        return True

    @abstractmethod
    def enter(self, block: Any, x_BNC: Tensor) -> Tensor:
        """The input of the block's attention, such as the norm of x."""

    @abstractmethod
    def attention(self, block: Any, x_BNC: Tensor) -> Attention:
        """Project the input of the attention to queries, keys and values."""

    @abstractmethod
    def leave(self, block: Any, mixed_BHND: Tensor) -> Tensor:
        """The output projection of the attention, [B, N, C]."""

    @abstractmethod
    def add_attention(self, block: Any, x_BNC: Tensor, out_BNC: Tensor) -> Tensor:
        """x plus the output of the attention, with LayerScale and drop-path."""

    @abstractmethod
    def add_mlp(self, block: Any, x_BNC: Tensor) -> Tensor:
        """x plus the output of the MLP, with norm, LayerScale and drop-path."""

    def rotation(self, *args: Any, **kwargs: Any) -> Rotation | None:
        """The rotary table among the arguments that the library passes to a block; None if there is none."""
        return None

    def apply_rope(self, block: Any, attention: Attention, rows: Tensor) -> Attention:
        """Apply the given rotary rows (`Rotation.rows`) to the queries and keys of the last K tokens."""
        raise NotImplementedError(f"{type(self).__name__} has a rotary table but no apply_rope.")

    def check_call(self, *args: Any, **kwargs: Any) -> None:
        """ValueError for an argument beside the features that a reduced model cannot follow."""
        if (args or kwargs) and any(value is not None and value is not False for value in (*args, *kwargs.values())):
            raise ValueError(MASKED)

    def run(self, block: Any, step: Step, tokens: Tokens, rotation: Rotation | None) -> Tokens:
        """step(tokens, rotation), run as the library runs a block, which may be with gradient checkpointing."""
        return step(tokens, rotation)

    def example(self, block: Any, num_patches: int, generator: torch.Generator) -> dict[str, Any]:
        """Random arguments beside the features, for the self-check."""
        return {}

    def own_output(self, block: Any, x_BNC: Tensor, rotation: Rotation | None = None) -> Tensor:
        """The block's own output, as the library computes it."""
        return own_forward(block)(x_BNC)


def own_forward(block: Any) -> Callable[..., Any]:
    """The block's own forward, features in and out, also if the block reduces tokens now."""
    return getattr(block, "own_forward", block.forward)


def through(x: Tensor, *modules: nn.Module) -> Tensor:
    """Apply modules in turn, and skip calls of those that do nothing, of which blocks have many."""
    for module in modules:
        idle = type(module) is nn.Identity or (type(module) is nn.Dropout and not module.training)
        if not idle or has_hooks(module):
            x = module(x)
    return x


class UnreadableReader(BlockReader):
    """For a block that can only be called. Such blocks come first, and no method is active in them."""

    unreadable = True

    def attention(self, block: Any, x_BNC: Tensor) -> Attention:
        raise RuntimeError(f"the attention of a {type(block).__name__} cannot be read.")

    enter = leave = add_attention = add_mlp = attention  # type: ignore[assignment]


class Padding:
    """Adds the residuals of packed images (see `Tokens`) by padding them first."""

    def __init__(self, reader: BlockReader, lengths: packing.Lengths):
        self.reader, self.lengths = reader, lengths

    def add_attention(self, block: Any, x_BNC: Tensor, out_BNC: Tensor) -> Tensor:
        """As `BlockReader.add_attention`."""
        x_BNC, out_BNC = (packing.pad(rows_BNC[0], self.lengths) for rows_BNC in (x_BNC, out_BNC))
        return packing.pack(self.reader.add_attention(block, x_BNC, out_BNC), self.lengths).unsqueeze(0)

    def add_mlp(self, block: Any, x_BNC: Tensor) -> Tensor:
        """As `BlockReader.add_mlp`."""
        return packing.pack(self.reader.add_mlp(block, packing.pad(x_BNC[0], self.lengths)), self.lengths).unsqueeze(0)
