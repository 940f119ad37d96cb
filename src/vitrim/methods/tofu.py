"""ToFu, Token Fusion: Bridging the Gap between Token Pruning and Token Merging (Kim et al., WACV 2024).

Paper: https://arxiv.org/abs/2312.01026. No official code is public; two versions by others agree, in OpenToMe
(https://github.com/Westlake-AI/OpenToMe, Apache-2.0) and in PiToMe's repository (CC-BY-NC 4.0). Every block finds the
r most similar pairs as ToMe does. Early blocks drop one patch of each pair, because they were not trained on means of
features. Late blocks merge the pair, and the mean is scaled to the largest norm of its group.

    x_j = mean · max ‖x_i‖ / ‖mean‖    mean: of x_j and the x_i that merge into j; the maximum runs over the same

As in both public versions: blocks up to the middle drop patches (0 to 6 of 12). They drop the patches that are most
similar to another one, not the least important ones. Sizes are not counted, so means are not weighted and attention
does not use sizes.
Different: both public versions divide by the former norm of x_j and not by the norm of the mean (norm="old"). The
result then has the largest norm only if all features of the group point in the same direction. The default divides by
the norm of the mean.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch

from ..core import ops, schedule
from ..core.amount import PerBlock
from ..core.attention import Attention
from ..core.choices import check_choice
from ..core.matching import match, match_macs
from ..core.removing import RemovingMethod
from ..core.spec import ViTSpec
from ..core.tokens import Tokens

Norm = Literal["mean", "old", "plain"]
HOW = {"mean": "norm", "old": "old_norm", "plain": "mean"}  # of `ops.merge`


@dataclass(frozen=True, kw_only=True)
class ToFu(RemovingMethod):
    """Of the r most similar pairs of patches, drop one patch in early blocks and merge both in late ones.

    Args:
        r: patches to remove per block: one number; a pair (r, inflect), which runs linearly from r (1 - inflect) in the
            first block to r (1 + inflect) in the last; or a list, one number per block, padded with 0.
        layers: the blocks that reduce, 0-based and increasing; None means every block. A list of r then has one number
            per layer.
        merge_from: the first block that merges; those before drop. None means the one behind the middle (7 of 12).
        norm: how a mean is scaled: to its group's largest norm (mean), the same but divided by the receiver's former
            norm as in the public versions (old), or not at all, as for MAE (plain).
        clamp: whether a block that is asked for more than half of its patches removes that half; otherwise an error.

    Raises:
        ValueError: If no model can take a setting. `reduce_tokens` raises it for the model at hand.

    Source:
        Kim et al., WACV 2024, https://arxiv.org/abs/2312.01026.

    >>> ToFu(r=13).norm
    'mean'
    """

    name = "tofu"
    R = PerBlock("r", "r {:g}", neutral=0, usual=13)
    merges = drops = by_position = True

    merge_from: int | None = None
    norm: Norm = "mean"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self.norm, Norm, f"{self.name}: norm")
        if self.merge_from is not None and not (schedule.is_whole(self.merge_from) and self.merge_from >= 0):
            raise ValueError(f"{self.name}: merge_from is a block, 0 or more, not {self.merge_from!r}.")

    def build(self, spec: ViTSpec) -> ToFu:
        built = super().build(spec)
        return built if self.merge_from is not None else replace(built, merge_from=spec.depth // 2 + 1)

    def extra_macs(self, layer: int, num_patches: int, spec: ViTSpec) -> int:
        return match_macs(num_patches, spec.head_channels) if self.is_active(layer, num_patches) else 0

    def after_attention(self, layer: int, tokens: Tokens, attention: Attention) -> Tokens:
        assert self.merge_from is not None, "build() comes first"
        removed = self.num_removed(layer, tokens.num_patches)
        keep_BK, rest_BM, slot_BM = match(attention.mean_key(), tokens.num_prefix, removed)
        if layer < self.merge_from:
            return ops.keep(tokens, keep_BK)
        ones_BN = torch.ones_like(ops.patch_sizes(tokens))
        return ops.merge(tokens, keep_BK, rest_BM, slot_BM, ones_BN, how=HOW[self.norm])
