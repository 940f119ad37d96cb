"""EViT: Expediting Vision Transformers via Token Reorganizations (Liang et al., ICLR 2022).

Paper: https://arxiv.org/abs/2202.07800. Official code: https://github.com/youweiliang/evit (Apache-2.0).
The patches to which the class token attends most stay. The others are fused into one token, or dropped.

    a_i = mean over heads of softmax(q_cls kᵀ / √d)_i    the score of patch i
    x_fused = Σ a_i x_i    over the patches that do not stay (eq. 3)

As in the official code, the weights of the fused token are not normalised, it comes last, and it competes in the next
reduction like any other token. A block that would keep all patches does nothing.
Different: a distillation token is never pruned, counts are exact, and feature norms weigh as shares of their sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..core import ops
from ..core.amount import Amount
from ..core.attention import Attention
from ..core.schedule import check_counts
from ..core.scored import ScoredMethod, check_scorer, patch_scores
from ..core.spec import ViTSpec
from ..core.tokens import Tokens


@dataclass(frozen=True, kw_only=True)
class EViT(ScoredMethod):
    """Keep the most attended patches, fuse the rest into one token.

    Args:
        keep_rate: share of the patches that enter a reducing block, one number or one per layer; above 0, at most 1.
        layers: reducing blocks, 0-based and increasing; None means a quarter of the depth apart (3, 6, 9 of 12).
        r: patches that go in each of these blocks, one number or one per layer, in place of keep_rate.
        scorer: cls, received, norm or shift, see `patch_scores`. cls needs a class token.
        fuse: whether the others are fused (EViT) or dropped (its Table 1 and 2a).
        tokens: patches to keep in each block, without the fused token, one entry per block. Entries of None follow
            keep_rate.

    Raises:
        ValueError: If no model can take a setting. `reduce_tokens` raises it for the model at hand.

    Source:
        Liang et al., ICLR 2022, https://arxiv.org/abs/2202.07800.

    >>> EViT(keep_rate=0.7)
    EViT(keep_rate=0.7, layers=None, scorer='cls', fuse=True, tokens=None)
    """

    name = "evit"

    fuse: bool = True
    tokens: Sequence[int | None] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(self.tokens, self.name, "tokens")

    @property
    def merges(self) -> bool:
        return self.fuse

    fuses = merges

    @property
    def amount(self) -> Amount | None:
        return super().amount if self.tokens is None else None  # they are set one by one

    def build(self, spec: ViTSpec) -> EViT:
        if self.tokens is None:
            return super().build(spec)
        if len(self.tokens) != spec.depth:
            raise ValueError(f"{self.name}: tokens needs one entry for each of {spec.depth} blocks, not {self.tokens}.")
        counts = tuple(self.tokens)
        if None in counts:
            built = replace(super().build(spec), tokens=counts)
        else:  # no block is left for the keep rate
            check_scorer(self, self.scorer, spec)
            built = replace(self, tokens=counts, layers=(), keep_rate=())
        return built.fits(spec)

    def num_attentive(self, layer: int, num_patches: int) -> int:
        count = None if self.tokens is None else self.tokens[layer]
        if count is None and self.r is not None:  # the fused token is one of those that are left
            removed = self.num_removed(layer, num_patches + self.fuse - 1)
            return num_patches - removed - self.fuse if removed else num_patches
        if count is None:
            return super().num_attentive(layer, num_patches)
        if count > num_patches:
            raise ValueError(f"{self.name}: block {layer} cannot keep {count} patches: only {num_patches} enter it.")
        return count

    def num_kept(self, layer: int, num_patches: int) -> int:
        num_keep = self.num_attentive(layer, num_patches)
        return num_keep + self.fuse if num_keep < num_patches else num_patches

    def extra_macs(self, layer: int, num_patches: int, spec: ViTSpec) -> int:
        num_keep = self.num_attentive(layer, num_patches)
        if num_keep == num_patches:
            return 0
        return self.score_macs(num_patches, spec) + (num_patches * spec.channels if self.fuse else 0)

    def after_attention(self, layer: int, tokens: Tokens, attention: Attention) -> Tokens:
        score_BN = patch_scores(self.scorer, tokens, attention)
        keep_BK, _ = ops.rank(score_BN, self.num_attentive(layer, tokens.num_patches))
        return ops.fuse(tokens, keep_BK, score_BN) if self.fuse else ops.keep(tokens, keep_BK)
