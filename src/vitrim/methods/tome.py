"""ToMe, Token Merging: Your ViT But Faster (Bolya et al., ICLR 2023).

Paper: https://arxiv.org/abs/2210.09461. Official code: https://github.com/facebookresearch/ToMe (CC-BY-NC 4.0; this
file is written from the paper). In every block the r most similar pairs of patches merge, between two halves of
the sequence (section 3.2). Attention weighs each token by the patches that it stands for (section 3.3, eq. 1).

    A = softmax(Q Kᵀ / √d + log s)    s: how many patches each key stands for (eq. 1)
    x_j = (s_j x_j + Σ s_i x_i) / (s_j + Σ s_i)    over the i that merge into j

As in the official code: similarity compares keys averaged over heads. The unmerged tokens of the first half come before
the second half, which shuffles the next split. The prefix is never merged.
Different: r above half of a block's patches is an error unless clamp=True, while the official code silently merges
half. LayerScale, query-key norm, registers and gradient checkpointing work.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeGuard

from ..core import ops, schedule
from ..core.amount import Amount, PerBlock
from ..core.attention import Attention
from ..core.matching import match
from ..core.method import Method
from ..core.spec import ViTSpec
from ..core.tokens import Tokens

R = PerBlock("r", "r {:g}", neutral=0, usual=13)
MOST = 10**6  # no model has more patches


@dataclass(frozen=True, kw_only=True)
class ToMe(Method):
    """Merge the r most similar pairs of patches in every block.

    Args:
        r: patches to remove per block. One number; or a pair (r, inflect), which runs linearly from r (1 - inflect) in
            the first block to r (1 + inflect) in the last, so (13, -1.0) removes more early on; or a list with one
            number per block, padded with 0. No block can remove more than half of its patches.
        clamp: whether a larger r merges that half, as in the official code, or is an error.
        prop_attn: whether attention adds log(size) to the logits (proportional attention). The paper turns it off for
            MAE without training.

    Raises:
        ValueError: If no model can take a setting. `reduce_tokens` raises it for the model at hand.

    Source:
        Bolya et al., ICLR 2023, https://arxiv.org/abs/2210.09461, sections 3.2 and 3.3.

    >>> ToMe(r=13)
    ToMe(r=13, prop_attn=True, clamp=False)
    """

    name = "tome"

    r: int | tuple[int, float] | Sequence[int] = 13
    prop_attn: bool = True
    clamp: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.r, str) or not (schedule.is_whole(self.r) or isinstance(self.r, Sequence)):
            raise ValueError(
                f"tome: r must be a whole number, a pair (r, inflect), or a list with one per block, not {self.r!r}."
            )
        counts = self.r if isinstance(self.r, Sequence) else (self.r,)
        if not all(schedule.is_whole(count) and count >= 0 for count in counts[: 1 if _is_pair(self.r) else None]):
            raise ValueError(f"tome: r must be a whole number of at least 0 in every block, not {self.r!r}.")

    @property
    def amount(self) -> Amount:
        return R

    @property
    def merges(self) -> bool:
        return True

    @property
    def size_in_attention(self) -> bool:
        return self.prop_attn

    @property
    def by_position(self) -> bool:
        return True

    def build(self, spec: ViTSpec) -> ToMe:
        return replace(self, r=_per_block(self.r, spec.depth)).fits(spec)

    def num_removed(self, layer: int, num_patches: int) -> int:
        """Patches that block `layer` merges away. More than half is a ValueError, or half if clamped."""
        assert isinstance(self.r, tuple), "build() comes first"
        removed = int(self.r[layer])
        if removed > num_patches // 2 and not self.clamp:
            raise ValueError(
                f"tome: r = {removed} in block {layer} is too large: {num_patches} patches enter it and at most half, "
                f"{num_patches // 2}, can merge. Use a smaller r, a list with one r per block, or clamp=True "
                "(--clamp), which merges half."
            )
        return min(removed, num_patches // 2)

    def num_kept(self, layer: int, num_patches: int) -> int:
        return num_patches - self.num_removed(layer, num_patches)

    def is_active(self, layer: int, num_patches: int) -> bool:
        return self.num_removed(layer, num_patches) > 0

    def extra_macs(self, layer: int, num_patches: int, spec: ViTSpec) -> int:
        if self.num_removed(layer, num_patches) == 0:
            return 0
        head_channels = spec.attention_channels // spec.num_heads
        return (num_patches // 2) * (num_patches - num_patches // 2) * head_channels

    def after_attention(self, layer: int, tokens: Tokens, attention: Attention) -> Tokens:
        num_removed = self.num_removed(layer, tokens.num_patches)
        keep_BK, rest_BM, slot_BM = match(attention.mean_key(), tokens.num_prefix, num_removed)
        return ops.merge(tokens, keep_BK, rest_BM, slot_BM, None)


def _per_block(r: int | tuple[int, float] | Sequence[int], depth: int) -> tuple[int, ...]:
    """r for every block. A tuple of two is (r, inflect), as in the official code. A list of two is two blocks."""
    if _is_pair(r):
        per_block: tuple[object, ...] = schedule.linear_r(r[0], r[1], depth)
    elif not isinstance(r, Sequence):
        per_block = (r,) * depth
    elif len(r) <= depth:
        per_block = (*r, *(0,) * (depth - len(r)))
    else:
        raise ValueError(
            f"tome: r must be a whole number, a pair (r, inflect), or a list of one number for each of at most {depth} "
            f"blocks, not {r!r}."
        )
    counts = tuple(value for value in per_block if schedule.is_whole(value) and value >= 0)
    if len(counts) != depth:
        raise ValueError(f"tome: r must be a whole number of at least 0 in every block, not {per_block}.")
    return counts


def _is_pair(r: object) -> TypeGuard[tuple[int, float]]:
    """Whether r is a pair (r, inflect) of plausible numbers."""
    if not isinstance(r, tuple) or len(r) != 2 or not schedule.is_whole(r[0]):
        return False
    return all(isinstance(value, (int, float)) and abs(value) <= MOST for value in r)
