"""Ward: ToMe's matching by Ward's criterion, with class attention as mass, on a schedule that starts late.

Not from a paper. ToMe merges the most similar patches, whether they are important or not, and the same number in every
block. Here two patches merge if that costs little. Ward's criterion (J. Am. Stat. Assoc. 58, 1963) is the variance that
is lost if two groups become one. The mass of a patch is the attention that the class token pays to it, plus a constant
share, because other patches attend to it too.

    cost(i, j) = (1 - cos(x_i, x_j)) m_i m_j / (m_i + m_j)    x: features after the attention
    m_i = a_i / mean(a) + 0.3                                 a: class attention, mean over heads

Each patch at an even position proposes to the cheapest one at an odd position, and the cheapest proposals are taken
(ToMe, Bolya et al., ICLR 2023, section 3.2). With partner="heavier", each of the lighter half proposes to the cheapest
patch of more mass instead, so that any two patches of the background can merge, and the order of the patches does not
matter. That takes 1.75 times the multiply-adds. Means are weighted by size, and attention by log size (eq. 1 there).

The first third of the blocks keeps all patches. After that, many patches go at first and fewer later. If the head reads
no patches, the last block drops them after its attention, because nothing uses the output of its MLP for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

import torch

from ..core import ops, schedule
from ..core.amount import Amount, Share
from ..core.attention import Attention
from ..core.choices import check_choice
from ..core.matching import match, match_heavier, match_heavier_macs, match_macs
from ..core.method import Method
from ..core.scored import WITHOUT_CLS, Scorer, check_scorer, patch_scores, score_macs
from ..core.spec import ViTSpec
from ..core.tokens import Tokens

Partner = Literal["odd", "heavier"]

LEFT = Share("left", "left {:g}", neutral=1.0, usual=0.4)
LEFT_STEPS = 1000  # to which `left` is solved
GENTLE, STRONG = 0.35, 0.15  # of patches left: from where to where the default schedule moves to earlier blocks
SHARED_MASS = 0.3  # of every patch, in units of the mean attention


@dataclass(frozen=True, kw_only=True)
class Ward(Method):
    """Merge the pairs of patches whose merge costs least, weighed by class attention.

    Args:
        left: share of the patches that is left at the end, or when the last block begins if the head reads none; above
            0, at most 1, which keeps all. No block merges more than half of its patches.
        start: the first block that reduces, 0-based; None for a third of the depth, and earlier if less than 0.35 is
            left, down to a twelfth of the depth at 0.15.
        curve: how early patches go from `start` on: 1 removes the same number everywhere, 0.5 more
            in the first of these blocks, 2 more in the last ones; above 0. None for 0.5, and up to 0.75 at 0.15 left.
        speedup: how many times fewer multiply-adds the blocks take; `left` is solved for it, and so not given.
        patches: the number that enters the first block, then the number that leaves each block, as `vitrim tune` finds
            them; takes the place of left, speedup, start and curve. Where another number enters, the same shares stay.
        partner: whom a patch can merge into: each at an even position into one at an odd position (odd), as in ToMe, or
            each of the lighter half into any patch of more mass (heavier).
        scorer: cls, received, norm or shift, see `patch_scores`; None for cls, or received if there is no class token.

    Raises:
        ValueError: If no model can take a setting. `reduce_tokens` raises it for the model at hand.

    >>> Ward(left=0.5)
    Ward(left=0.5, start=None, curve=None, speedup=None, patches=None, partner='odd', scorer=None)
    """

    name = "ward"
    merges = drops = size_in_attention = by_position = True

    left: float = 0.4
    start: int | None = None
    curve: float | None = None
    speedup: float | None = None
    patches: Sequence[int] | None = None
    partner: Partner = "odd"
    scorer: Scorer | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scorer is not None:
            check_choice(self.scorer, Scorer, f"{self.name}: scorer")
        check_choice(self.partner, Partner, f"{self.name}: partner")
        LEFT.check(self.left, self.name)
        if self.start is not None and not (schedule.is_whole(self.start) and self.start >= 0):
            raise ValueError(f"{self.name}: start is the index of a block, at least 0, not {self.start!r}.")
        if self.curve is not None and not (schedule.is_number(self.curve) and 0 < self.curve <= 100):
            raise ValueError(f"{self.name}: curve is above 0 and at most 100, not {self.curve!r}.")
        if self.speedup is not None and not (schedule.is_number(self.speedup) and self.speedup >= 1):
            raise ValueError(f"{self.name}: speedup is a number of at least 1, not {self.speedup!r}.")
        if self.patches is not None:
            _check_patches(self.patches)

    @property
    def amount(self) -> Amount | None:
        return LEFT if self.patches is None and self.speedup is None else None

    def build(self, spec: ViTSpec) -> Ward:
        scorer: Scorer = self.scorer or ("cls" if spec.has_cls else WITHOUT_CLS)
        check_scorer(self, scorer, spec)
        resolved = replace(self, scorer=scorer)
        if self.patches is not None:
            _check_fits(self.patches, spec)
            return replace(resolved, patches=tuple(self.patches))
        if self.speedup is None:
            return replace(resolved, patches=self._shape(self.left, spec))
        return resolved._solved(self.speedup, spec)

    def _solved(self, speedup: float, spec: ViTSpec) -> Ward:
        """The schedule that removes the least for this speed-up."""
        none = replace(self, patches=(spec.num_patches,) * (spec.depth + 1))._block_macs(spec)
        low, high = 1, LEFT_STEPS  # halved down to the largest share that is fast enough
        while low < high:
            middle = (low + high + 1) // 2
            at = replace(self, patches=self._shape(middle / LEFT_STEPS, spec))
            low, high = (middle, high) if none >= speedup * at._block_macs(spec) else (low, middle - 1)
        found = replace(self, patches=self._shape(low / LEFT_STEPS, spec))
        if none < speedup * found._block_macs(spec):
            most = none / found._block_macs(spec)
            raise ValueError(f"{self.name}: {spec.name} can be {most:.2f} times as fast at most, not {speedup:g}.")
        return found

    def _block_macs(self, spec: ViTSpec) -> int:
        """Multiply-adds of all blocks, those of the method included."""
        assert self.patches is not None
        total = 0
        for layer, (entering, leaving) in enumerate(pairwise(self.patches)):
            num_in = entering + spec.num_prefix
            total += num_in * spec.attention_macs + 2 * num_in**2 * spec.attention_channels
            total += (leaving + spec.num_prefix) * spec.mlp_macs + self.extra_macs(layer, entering, spec)
        return total

    def _shape(self, left: float, spec: ViTSpec) -> tuple[int, ...]:
        """Patches that enter the first block and that leave each."""
        merging = spec.depth if spec.reads_patches else spec.depth - 1  # blocks; the last drops what nothing reads
        start, curve = self._begin(left, spec)
        if not spec.first_reducible_layer <= start < merging:
            raise ValueError(
                f"{self.name}: start is a block from {spec.first_reducible_layer} to {merging - 1}, not {start}."
            )
        done = (max(layer + 1 - start, 0) / (merging - start) for layer in range(merging))
        counts = schedule.falling(spec.num_patches, ((1 - left) * share**curve for share in done))
        return counts if spec.reads_patches else (*counts, 1 if left < 1 else spec.num_patches)

    def _begin(self, left: float, spec: ViTSpec) -> tuple[float, float]:
        """Where the schedule starts, and its curve: the more has to go, the earlier and the more evenly."""
        strong = min(max((GENTLE - left) / (GENTLE - STRONG), 0.0), 1.0)
        start: float = max(spec.depth / 3 - spec.depth / 4 * strong, spec.first_reducible_layer)
        if self.start is not None:
            return self.start, 0.5 if self.curve is None else self.curve
        return start, 0.5 + 0.25 * strong if self.curve is None else self.curve

    def num_kept(self, layer: int, num_patches: int) -> int:
        assert isinstance(self.patches, tuple), "build() comes first"
        entering, leaving = self.patches[layer : layer + 2]
        return (num_patches * leaving + entering - 1) // entering

    def is_active(self, layer: int, num_patches: int) -> bool:
        return self.num_kept(layer, num_patches) < num_patches

    def extra_macs(self, layer: int, num_patches: int, spec: ViTSpec) -> int:
        if not self.is_active(layer, num_patches):
            return 0
        assert self.scorer is not None, "build() comes first"
        macs = score_macs(self.scorer, num_patches, spec)
        if self._is_merged(layer, num_patches):
            counted = match_heavier_macs if self.partner == "heavier" else match_macs
            macs += counted(num_patches, spec.channels)
        return macs

    def after_attention(self, layer: int, tokens: Tokens, attention: Attention) -> Tokens:
        num_patches = tokens.num_patches
        num_kept = self.num_kept(layer, num_patches)
        assert self.scorer is not None, "build() comes first"
        score_BP = patch_scores(self.scorer, tokens, attention)
        if not self._is_merged(layer, num_patches):
            return ops.keep(tokens, ops.rank(score_BP, num_kept)[0])
        mass_BP = (
            score_BP / score_BP.mean(dim=1, keepdim=True).clamp(min=torch.finfo(score_BP.dtype).tiny) + SHARED_MASS
        )
        matching = match_heavier if self.partner == "heavier" else match
        keep_BK, rest_BM, slot_BM = matching(tokens.x_BNC, tokens.num_prefix, num_patches - num_kept, mass_BP)
        return ops.merge(tokens, keep_BK, rest_BM, slot_BM, None)

    def _is_merged(self, layer: int, num_patches: int) -> bool:
        """Whether patches merge in block `layer`; where more than half go, they are dropped."""
        return num_patches - self.num_kept(layer, num_patches) <= num_patches // 2


def _check_patches(patches: Sequence[int]) -> None:
    """ValueError for what no model could take."""
    whole = isinstance(patches, Sequence) and len(patches) > 1 and all(schedule.is_whole(each) for each in patches)
    if not whole or min(patches) < 1 or any(after > before for before, after in pairwise(patches)):
        raise ValueError(
            "ward: patches are whole numbers of at least 1 that do not grow: how many enter the first block, then how "
            f"many leave each block, not {patches!r}."
        )


def _check_fits(patches: Sequence[int], spec: ViTSpec) -> None:
    """ValueError for patches that are not of this model."""
    if len(patches) != spec.depth + 1:
        raise ValueError(
            f"ward: patches are {spec.depth + 1} numbers for the {spec.depth} blocks of {spec.name}, the first for "
            f"those that enter, not {len(patches)}."
        )
    if patches[spec.first_reducible_layer] != patches[0]:
        raise ValueError(f"ward: blocks before {spec.first_reducible_layer} of {spec.name} cannot reduce.")
    for layer, (entering, leaving) in enumerate(pairwise(patches)):
        if entering - leaving > entering // 2 and (layer < spec.depth - 1 or spec.reads_patches):
            raise ValueError(
                f"ward: block {layer} cannot merge {entering} patches to {leaving}: at most half of them can go."
            )
