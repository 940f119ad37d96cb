"""Attention mass: each image keeps the fewest patches that hold a given share of the attention.

Not from a paper; similar in spirit to nucleus (top-p) sampling of text (Holtzman et al., ICLR 2020). In some images the
class token attends to a few patches, in others to many, so no single keep rate suits all. Here the best patches are
kept until their scores sum to a share of the total.

    K = min k with a_(1) + ... + a_(k) ≥ mass Σ a_i    a_(1), a_(2), ...: the scores in falling order

Related: ATS (ECCV 2022) samples a number of tokens per image from the class attention. LTMP (TMLR 2023) and
Adaptive Sparse ViT (2022) learn a threshold. Evo-ViT (AAAI 2022) ranks by class attention over layers. Here nothing is
learned or random. The other patches are fused as in EViT (ICLR 2022), but by a weighted mean, so that little
attention does not make a small token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..core import schedule
from ..core.amount import Share
from ..core.attention import Attention
from ..core.choices import check_choice
from ..core.method import Method
from ..core.scored import Scorer, check_scorer, patch_scores, score_macs
from ..core.selection import fuse_where, keep_where
from ..core.spec import ViTSpec
from ..core.tokens import Tokens


@dataclass(frozen=True, kw_only=True)
class AttentionMass(Method):
    """Keep in each image the fewest patches that hold a share of its attention, fuse the rest into one.

    Images of a batch keep different numbers of tokens, without padding. Such a model can be neither compiled nor
    exported, and its multiply-adds depend on the image.

    Args:
        mass: share of the scores that the kept patches reach, one number or one per layer; above 0, at most 1. 1 keeps
            all.
        layers: reducing blocks, 0-based and increasing; None means a quarter of the depth apart (3, 6, 9 of 12).
        scorer: cls, received, norm or shift, see `patch_scores`. cls needs a class token.
        fuse: whether the others are fused, weighted by their scores, or dropped.

    Raises:
        ValueError: If no model can take a setting. `reduce_tokens` raises it for the model at hand.

    >>> AttentionMass(mass=0.8)
    AttentionMass(mass=0.8, layers=None, scorer='cls', fuse=True)
    """

    name = "attention_mass"
    amount = Share("mass", "mass {:g}", neutral=1.0, usual=0.9, solved=False)

    mass: float | Sequence[float] = 0.9
    layers: Sequence[int] | None = None
    scorer: Scorer = "cls"
    fuse: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self.scorer, Scorer, f"{self.name}: scorer")
        schedule.check_reducing(self.layers, self.name)
        schedule.check_shares(self.mass, self.name, "mass")

    @property
    def merges(self) -> bool:
        return self.fuse

    fuses = merges

    @property
    def varies(self) -> bool:
        masses = self.mass if isinstance(self.mass, Sequence) else (self.mass,)
        return any(mass != 1 for mass in masses)

    def build(self, spec: ViTSpec) -> AttentionMass:
        check_scorer(self, self.scorer, spec)
        layers = schedule.default_layers(spec.depth) if self.layers is None else self.layers
        layers = schedule.check_layers(layers, spec.depth, self.name)
        return replace(self, layers=layers, mass=schedule.check_rates(self.mass, len(layers), self.name, "mass"))

    def mass_at(self, layer: int) -> float:
        """Share of the scores to reach in block `layer`; 1 if it is not a reducing block."""
        assert isinstance(self.layers, tuple) and isinstance(self.mass, tuple), "build() comes first"
        return self.mass[self.layers.index(layer)] if layer in self.layers else 1.0

    def num_kept(self, layer: int, num_patches: int) -> int:
        """The most that an image can keep, which happens if all its scores are equal."""
        return min(num_patches, schedule.ceil_share(self.mass_at(layer), num_patches) + self.fuse)

    def is_active(self, layer: int, num_patches: int) -> bool:
        return self.mass_at(layer) < 1

    def extra_macs(self, layer: int, num_patches: int, spec: ViTSpec) -> int:
        if self.mass_at(layer) == 1:
            return 0
        return score_macs(self.scorer, num_patches, spec) + (num_patches * spec.channels if self.fuse else 0)

    def after_attention(self, layer: int, tokens: Tokens, attention: Attention) -> Tokens:
        mass = self.mass_at(layer)
        score_BN = patch_scores(self.scorer, tokens, attention)
        if score_BN.is_meta:
            raise ValueError(f"{self.name}: token counts depend on the image, so it cannot run on the meta device.")
        most_B = [schedule.ceil_share(mass, count - tokens.num_prefix) for count in tokens.num_tokens_B]
        kept_BN = within_mass(score_BN, mass, torch.tensor(most_B, device=score_BN.device))
        return fuse_where(tokens, kept_BN, score_BN) if self.fuse else keep_where(tokens, kept_BN)


def within_mass(score_BN: Tensor, mass: float, most_B: Tensor) -> Tensor:
    """The best of each row until they sum to the share `mass`, at most most_B of them: [B, N], bool.

    Scores are at least 0, and 0 at padding. Ties go to the lower index. At least one stays.
    """
    best = score_BN.sort(dim=1, descending=True, stable=True)
    sum_BN = best.values.cumsum(dim=1)
    before_BN = sum_BN - best.values
    rank_N = torch.arange(score_BN.shape[1], device=score_BN.device)
    kept_BN = (before_BN < mass * sum_BN[:, -1:]) & (rank_N < most_B.unsqueeze(1))
    kept_BN[:, 0] = True
    return torch.zeros_like(kept_BN).scatter(1, best.indices, kept_BN)
