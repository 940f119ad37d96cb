"""Multiply-adds of the blocks as a function of token counts that have a gradient, for methods that learn them."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from torch import Tensor

from .method import Method
from .schedule import is_number
from .spec import ViTSpec


class BlockCost(NamedTuple):
    """The share in the multiply-adds of all blocks that one learning block accounts for.

    That is its own, and those of the blocks behind it up to the next that learns. The first has those before it too.
    """

    attention: int  # per token
    pairs: int  # per pair of tokens
    mlp: int  # per token
    before: int  # multiply-adds of the blocks before the first
    behind: int  # how many blocks follow that learn nothing
    total: int  # multiply-adds of all blocks when nothing is removed
    parts: int  # how many blocks learn

    def share(self, entering: Tensor, leaving: Tensor) -> Tensor:
        """The share, when so many tokens enter the block and leave its reduction."""
        own = self._mixing(entering) + leaving * self.mlp
        following = (self._mixing(leaving) + leaving * self.mlp) * self.behind
        return (own + following + self.before) / self.total

    def _mixing(self, num_tokens: Tensor) -> Tensor:
        return num_tokens * self.attention + num_tokens.square() * self.pairs


def block_costs(layers: Collection[int], spec: ViTSpec) -> dict[int, BlockCost]:
    """The cost of each block that learns."""
    order, N = sorted(layers), spec.num_patches + spec.num_prefix
    pairs = 2 * spec.attention_channels
    full = N * (spec.attention_macs + spec.mlp_macs) + N * N * pairs
    ends = [*order[1:], spec.depth]
    return {
        layer: BlockCost(
            spec.attention_macs,
            pairs,
            spec.mlp_macs,
            before=full * layer if layer == order[0] else 0,
            behind=end - layer - 1,
            total=full * spec.depth,
            parts=len(order),
        )
        for layer, end in zip(order, ends, strict=True)
    }


def check_target(target: object, name: str) -> None:
    """ValueError for a share of the multiply-adds to train for that no model could reach. None: nothing is learned."""
    if target is not None and not (is_number(target) and 0 < target < 1):
        raise ValueError(
            f"{name}: target is a share of the blocks' multiply-adds, above 0 and below 1, not {target!r}."
        )


def check_masks(method: Method, spec: ViTSpec) -> None:
    """ValueError for a model whose head would read tokens that are masked in training."""
    if spec.head_macs:
        raise ValueError(
            f"{method.name}: training masks tokens, and the head of {spec.name} reads every token: train it on a model "
            "whose head reads a class token or pools patches."
        )
