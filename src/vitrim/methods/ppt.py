"""PPT: Token Pruning and Pooling for Efficient Vision Transformers (Wu et al., 2023).

Paper: https://arxiv.org/abs/2310.01812. Official code: https://github.com/xjwu1024/PPT (Apache-2.0). A reducing block
removes r patches of each image in one of two ways, by how much the patches differ in importance: where the scores lie
close together, the most similar pairs merge as in ToMe; where they lie apart, the least important are dropped.

    a_i = c_i ‖v_i‖ / Σ c_j ‖v_j‖    c: class attention, mean over heads; v: value, all heads together
    merge the r most similar pairs, if var(a) < threshold, or else drop the r patches of the lowest a

As in the official code: the choice is made for each image and block, and both ways leave the same number of patches, so
that a batch never matters; the variance is the unbiased one; what is dropped takes its size along. Scores sum to 1, so
their variance rises as patches go: one threshold merges early on and drops later, and a value that was found for one
number of patches does not carry over to another. Without proportional attention every merge is a plain mean.
Different: no block removes more than half of its patches, in either way. A model without a class token takes the
attention received, or the feature's norm, in place of c.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..core import ops, schedule
from ..core.amount import PerBlock
from ..core.attention import Attention
from ..core.choices import check_choice
from ..core.matching import match, match_macs
from ..core.removing import RemovingMethod
from ..core.scored import Scorer, check_scorer, score_macs, value_scores
from ..core.spec import ViTSpec
from ..core.tokens import Tokens


@dataclass(frozen=True, kw_only=True)
class PPT(RemovingMethod):
    """Merge similar patches where importance hardly differs, drop unimportant ones where it does.

    Args:
        r: patches to remove in each reducing block: one number; a pair (r, inflect), which runs linearly from
            r (1 - inflect) in the first of them to r (1 + inflect) in the last; or a list, one number for each.
        layers: reducing blocks, 0-based and increasing; None means a quarter of the depth apart (3, 6, 9 of 12).
        threshold: of the variance of the scores, below which patches merge; 0 always drops.
        clamp: whether a larger r than half of a block's patches removes that half, as 50 does in the third of three
            blocks of 196 patches, or is an error.
        scorer: cls, received or norm, see `patch_scores`; a model without a class token needs one of the last two.
        prop_attn: whether sizes are counted and attention adds log(size) to the logits.

    Raises:
        ValueError: If no model can take a setting. `reduce_tokens` raises it for the model at hand.

    Source:
        Wu et al., 2023, https://arxiv.org/abs/2310.01812.

    >>> PPT(r=50).threshold
    7e-05
    """

    name = "ppt"
    R = PerBlock("r", "r {:g}", neutral=0, usual=50)
    merges = drops = by_position = True

    r: int | tuple[int, float] | Sequence[int] = 50
    clamp: bool = True
    threshold: float = 7e-5
    scorer: Scorer = "cls"
    prop_attn: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self.scorer, Scorer, f"{self.name}: scorer")
        if not schedule.is_number(self.threshold) or not self.threshold >= 0:
            raise ValueError(f"{self.name}: threshold is a number of at least 0, not {self.threshold!r}.")

    def default_layers(self, spec: ViTSpec) -> tuple[int, ...]:
        return schedule.default_layers(spec.depth)

    def build(self, spec: ViTSpec) -> PPT:
        check_scorer(self, self.scorer, spec)
        return super().build(spec)

    def extra_macs(self, layer: int, num_patches: int, spec: ViTSpec) -> int:
        if not self.is_active(layer, num_patches):
            return 0
        return score_macs(self.scorer, num_patches, spec) + match_macs(num_patches, spec.head_channels)

    def after_attention(self, layer: int, tokens: Tokens, attention: Attention) -> Tokens:
        num_removed = self.num_removed(layer, tokens.num_patches)
        score_BN = self.scores(tokens, attention)
        merges_B1 = variance(score_BN) < self.threshold
        merging = match(attention.mean_key(), tokens.num_prefix, num_removed)
        dropping = ops.rank(score_BN, tokens.num_patches - num_removed)
        keep_BK, rest_BM = (torch.where(merges_B1, *both) for both in zip(merging, dropping, strict=False))
        slot_BM, joins_BM = torch.where(merges_B1, merging[2], 0), merges_B1.expand_as(rest_BM)
        weight_BN = None if self.prop_attn else torch.ones_like(score_BN)
        return ops.merge(tokens, keep_BK, rest_BM, slot_BM, weight_BN, joins_BM=joins_BM)

    def scores(self, tokens: Tokens, attention: Attention) -> Tensor:
        """Importance of each patch, which sum to 1 in an image: [B, N - prefix]."""
        return value_scores(self.scorer, tokens, attention)


def variance(score_BN: Tensor) -> Tensor:
    """The unbiased variance of each image's scores, [B, 1]; torch's own warns of an empty batch."""
    away_BN = score_BN - score_BN.mean(dim=1, keepdim=True)
    return away_BN.square().sum(dim=1, keepdim=True) / max(score_BN.shape[1] - 1, 1)
