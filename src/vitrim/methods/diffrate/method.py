"""The method: published counts, counts of one's own, and counts that training learns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from ...core import ops, schedule
from ...core.amount import Strength
from ...core.attention import Attention
from ...core.choices import check_choice
from ...core.cost import block_costs, check_masks, check_target
from ...core.exits import Criterion
from ...core.mask import Mask
from ...core.matching import cosines
from ...core.method import Method
from ...core.scored import Scorer, check_scorer, patch_scores, score_macs
from ...core.spec import ViTSpec
from ...core.tokens import Tokens
from .search import EPS, WEIGHT, Rates, search_step

Schedule = Literal["deit_small_2.9", "deit_small_2.3", "deit_base_11.5", "deit_tiny_0.8"]
Counts = tuple[int, ...]

PATCHES = 196
PUBLISHED: dict[str, tuple[Counts, Counts]] = {  # patches after pruning and after merging, without the class token
    "deit_small_2.9": (
        (196, 195, 189, 167, 149, 138, 128, 116, 98, 77, 57, 2),
        (196, 193, 175, 155, 140, 132, 120, 106, 87, 63, 55, 2),
    ),
    "deit_small_2.3": (
        (196, 191, 167, 142, 120, 104, 91, 73, 61, 44, 32, 2),
        (196, 179, 155, 126, 108, 97, 79, 65, 51, 36, 30, 2),
    ),
    "deit_base_11.5": (
        (196, 196, 196, 187, 169, 153, 138, 122, 106, 71, 42, 2),
        (196, 196, 191, 177, 157, 144, 126, 110, 93, 49, 34, 2),
    ),
    "deit_tiny_0.8": (
        (196, 196, 195, 185, 165, 146, 116, 102, 91, 79, 73, 2),
        (196, 195, 189, 171, 153, 124, 106, 95, 83, 77, 69, 2),
    ),
}


@dataclass(frozen=True, kw_only=True)
class DiffRate(Method):
    """Drop the least attended patches, then merge the next ones into those that they resemble, in every block.

    Args:
        schedule: the counts that the paper found, by their GMACs: deit_small_2.9, deit_small_2.3, deit_base_11.5 or
            deit_tiny_0.8.
        strength: how much is reduced: 1 gives the counts as they are, 0 keeps all, and 2 reduces twice as much in each
            step, as keep rates multiply.
        pruned_to: counts of your own in place of the schedule: patches after pruning, one number per block.
        merged_to: patches after merging, one number per block.
        patches: patches that enter the first block where these counts are reached; None means the model's.
        target: learn the counts instead, for this share of the multiply-adds of all blocks, above 0 and below 1.
            `vitrim train --gmacs` sets it.
        scorer: cls, received or norm, see `patch_scores`; a model without a class token needs one of the last two.
        prop_attn: whether attention adds log(size) to the logits.

    Raises:
        ValueError: If no model can take a setting. `reduce_tokens` raises it for the model at hand.

    Source:
        Chen et al., ICCV 2023, https://arxiv.org/abs/2305.17997.

    >>> DiffRate(schedule="deit_tiny_0.8").schedule
    'deit_tiny_0.8'
    """

    name = "diffrate"
    merges = drops = True
    amount = Strength("strength", "strength {:g}", neutral=0, usual=1)

    schedule: Schedule = "deit_small_2.9"
    strength: float = 1.0
    pruned_to: Sequence[int] | None = None
    merged_to: Sequence[int] | None = None
    patches: int | None = None
    target: float | None = None
    scorer: Scorer = "cls"
    prop_attn: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self.schedule, Schedule, f"{self.name}: schedule")
        check_choice(self.scorer, Scorer, f"{self.name}: scorer")
        self.amount.check(self.strength, self.name)
        if (self.pruned_to is None) != (self.merged_to is None):
            raise ValueError(f"{self.name}: pruned_to and merged_to go together, one number per block in each.")
        if self.patches is not None and not (schedule.is_whole(self.patches) and self.patches >= 1):
            raise ValueError(f"{self.name}: patches is a whole number of at least 1, not {self.patches!r}.")
        if self.patches is not None and self.pruned_to is None:
            raise ValueError(f"{self.name}: patches says of how many pruned_to and merged_to are, so give these too.")
        check_target(self.target, self.name)
        if self.target is not None and (self.pruned_to is not None or self.strength != 1):
            raise ValueError(f"{self.name}: target learns the counts: leave pruned_to, merged_to and strength out.")
        if self.pruned_to is not None and self.merged_to is not None:
            _check_counts(self.name, self.pruned_to, self.merged_to, self.patches)

    def build(self, spec: ViTSpec) -> DiffRate:
        check_scorer(self, self.scorer, spec)
        if self.target is not None:
            check_masks(self, spec)
            return self
        if self.pruned_to is None or self.merged_to is None:
            pruned_to, merged_to = (_for_model(counts, spec) for counts in PUBLISHED[self.schedule])
            entering = (PATCHES, *merged_to)
            pruned_to = tuple(min(pair) for pair in zip(pruned_to, entering, strict=False))  # between published blocks
            return replace(self, pruned_to=pruned_to, merged_to=merged_to, patches=PATCHES)
        if len(self.pruned_to) != spec.depth:
            raise ValueError(
                f"{self.name}: pruned_to and merged_to need a number for each of {spec.depth} blocks, not "
                f"{len(self.pruned_to)}."
            )
        patches = spec.num_patches if self.patches is None else self.patches
        _check_counts(self.name, self.pruned_to, self.merged_to, patches)
        return replace(self, pruned_to=tuple(self.pruned_to), merged_to=tuple(self.merged_to), patches=patches)

    def counts(self, layer: int, num_patches: int) -> tuple[int, int]:
        """Patches that block `layer` has after pruning and after merging, when num_patches enter it."""
        if self.target is not None:  # not learned yet, or in this block
            pruned, merged = self.weights.kept() if isinstance(self.weights, Rates) else (num_patches, num_patches)
            return min(pruned, num_patches), min(merged, num_patches)
        assert self.pruned_to is not None and self.merged_to is not None and self.patches is not None, "build() first"
        before = self.merged_to[layer - 1] if layer else self.patches
        pruned, merged = self.pruned_to[layer], self.merged_to[layer]
        num_pruned = schedule.round_share((pruned / before) ** self.strength, num_patches)
        return num_pruned, schedule.round_share((merged / pruned) ** self.strength, num_pruned)

    def num_kept(self, layer: int, num_patches: int) -> int:
        return self.counts(layer, num_patches)[1]

    def is_active(self, layer: int, num_patches: int) -> bool:
        return isinstance(self.weights, Rates) or self.num_kept(layer, num_patches) < num_patches

    def extra_macs(self, layer: int, num_patches: int, spec: ViTSpec) -> int:
        pruned, merged = self.counts(layer, num_patches)
        if merged == num_patches:
            return 0
        return score_macs(self.scorer, num_patches, spec) + (pruned - merged) * merged * spec.channels

    def make_weights(self, layer: int, spec: ViTSpec) -> nn.Module | None:
        learning = range(max(1, spec.first_reducible_layer), spec.depth)
        if self.target is None or layer not in learning:
            return None
        return Rates(spec.num_patches, block_costs(learning, spec)[layer])

    def mask(self, live_BN: Tensor | None) -> Mask | None:
        return None if live_BN is None else Mask(live_BN, eps=EPS, sees_itself=True)

    def losses(self, collected: tuple[Tensor, ...], logits_BK: Tensor, criterion: Criterion) -> dict[str, Tensor]:
        return {"cost": WEIGHT * torch.stack(collected).sum().square()}

    def settled(self, weights: Sequence[nn.Module | None]) -> DiffRate:
        rates = [each for each in weights if isinstance(each, Rates)]
        if not rates:
            return self
        left, pruned_to, merged_to = rates[0].prune_scores.numel(), list[int](), list[int]()
        for each in weights:
            pruned, merged = each.kept() if isinstance(each, Rates) else (left, left)
            pruned_to.append(min(left, pruned))
            merged_to.append(left := min(left, merged))
        patches = rates[0].prune_scores.numel()
        return replace(self, target=None, pruned_to=tuple(pruned_to), merged_to=tuple(merged_to), patches=patches)

    def after_attention(self, layer: int, tokens: Tokens, attention: Attention) -> Tokens:
        rates = self.weights
        if isinstance(rates, Rates) and rates.training:
            score_BP = patch_scores(self.scorer, tokens, attention)
            tokens, entering, leaving = search_step(tokens, score_BP, rates)
            assert self.target is not None
            excess = rates.cost.share(entering, leaving) - self.target / rates.cost.parts
            return tokens.collect(self.name, excess * (rates.cost.total / 1e9))
        pruned, merged = self.counts(layer, tokens.num_patches)
        kept_BX, _ = ops.rank(patch_scores(self.scorer, tokens, attention), pruned)
        keep_BK, rest_BM = kept_BX[:, :merged], kept_BX[:, merged:]
        if pruned == merged:
            return ops.keep(tokens, keep_BK)
        keep_BKC, rest_BMC = (ops.take(tokens.x_BNC, index + tokens.num_prefix) for index in (keep_BK, rest_BM))
        similarity_BM, slot_BM = cosines(rest_BMC, keep_BKC).max(dim=-1)
        size_BN = ops.patch_sizes(tokens)
        growth_BM, ones_BN = size_BN.gather(1, rest_BM) * similarity_BM.detach(), torch.ones_like(size_BN)
        return ops.merge(tokens, keep_BK, rest_BM, slot_BM, ones_BN, growth_BM=growth_BM)


def _for_model(counts: Counts, spec: ViTSpec) -> Counts:
    """A published list for a model of any depth, by how deep a block stands; the last one stands for itself."""
    last = spec.depth - 1
    reads_patches = spec.pools_patches or not spec.has_cls
    found = []
    for layer in range(spec.depth):
        place = len(counts) - 1.0 if layer == last else layer * (len(counts) - 2) / max(last - 1, 1)
        low = int(place)
        between = counts[low] + (place - low) * (counts[min(low + 1, len(counts) - 1)] - counts[low])
        found.append(round(between) if layer >= spec.first_reducible_layer else PATCHES)
    if reads_patches and last > 0:
        found[last] = found[last - 1]
    return tuple(found)


def _check_counts(name: str, pruned_to: Sequence[int], merged_to: Sequence[int], patches: int | None) -> None:
    """ValueError for lists that are not of whole numbers, of one length, and falling from step to step."""
    for what, counts in (("pruned_to", pruned_to), ("merged_to", merged_to)):
        if isinstance(counts, str) or not isinstance(counts, Sequence):
            raise ValueError(f"{name}: {what} needs a number for each block, not {counts!r}.")
        if not all(schedule.is_whole(count) and count >= 1 for count in counts):
            raise ValueError(f"{name}: {what} are whole numbers of at least 1, not {tuple(counts)!r}.")
    if len(pruned_to) != len(merged_to):
        raise ValueError(
            f"{name}: pruned_to has {len(pruned_to)} numbers and merged_to {len(merged_to)}: one per block."
        )
    for layer, (pruned, merged) in enumerate(zip(pruned_to, merged_to, strict=True)):
        if patches is not None and pruned > patches:
            raise ValueError(f"{name}: block {layer} cannot keep {pruned} patches: only {patches} enter it.")
        if merged > pruned:
            raise ValueError(f"{name}: block {layer} cannot merge {pruned} patches into {merged}, which are more.")
        patches = merged
