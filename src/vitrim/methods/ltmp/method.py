"""The method: settings, and what one block does at inference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ...core import masking, schedule
from ...core.amount import Share
from ...core.attention import Attention
from ...core.cost import block_costs, check_masks, check_target
from ...core.exits import Criterion
from ...core.matching import match_macs
from ...core.method import Method
from ...core.pairs import even_places_first, partners
from ...core.precision import at_least_fp32
from ...core.selection import live_patches, merge_where, places, reorder
from ...core.spec import ViTSpec
from ...core.tokens import Tokens
from .training import WEIGHT, Thresholds, masked_step


@dataclass(frozen=True, kw_only=True)
class LTMP(Method):
    """Merge patches that resemble a partner enough, drop those that receive too little attention.

    Images of a batch keep different numbers, and none is padded. No compile, no export, no fixed multiply-adds.

    Args:
        merge_threshold: cosine above which a patch joins its best partner, one number or one per layer; above 0, at
            most 1. With 1, and prune_threshold=0, a block does nothing and learns nothing.
        prune_threshold: attention received, mean over heads and queries, which a patch has to exceed to stay; one
            number or one per layer, 0 to 1.
        layers: reducing blocks, 0-based and increasing; None means every block.
        target: train the thresholds, for this share of the multiply-adds of all blocks, above 0 and below 1.
            `vitrim train --gmacs` sets it.

    Raises:
        ValueError: for a setting that no model could take. Where it does not fit a model, `reduce_tokens` says so.

    Source:
        Bonnaerens and Dambre, TMLR 2023, https://arxiv.org/abs/2307.10780.

    >>> LTMP(merge_threshold=0.8)
    LTMP(merge_threshold=0.8, prune_threshold=0.0, layers=None, target=None)
    """

    name = "ltmp"
    merges = drops = size_in_attention = by_position = True
    amount = Share("merge_threshold", "merge {:g}", neutral=1.0, usual=0.9, solved=False)

    merge_threshold: float | Sequence[float] = 0.9
    prune_threshold: float | Sequence[float] = 0.0
    layers: Sequence[int] | None = None
    target: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        schedule.check_reducing(self.layers, self.name)
        check_target(self.target, self.name)
        schedule.check_shares(self.merge_threshold, self.name, "merge threshold")
        for least in _several(self.prune_threshold):
            if not schedule.is_number(least) or not 0 <= least <= 1:
                raise ValueError(f"{self.name}: a prune threshold is a number from 0 to 1, not {least!r}.")

    @property
    def varies(self) -> bool:
        return any(most != 1 for most in _several(self.merge_threshold)) or any(_several(self.prune_threshold))

    def build(self, spec: ViTSpec) -> LTMP:
        if self.target is not None:
            check_masks(self, spec)
        layers = tuple(range(spec.depth)) if self.layers is None else self.layers
        layers = schedule.check_layers(layers, spec.depth, self.name)
        merge = schedule.check_rates(self.merge_threshold, len(layers), self.name, "merge threshold")
        prune = _several(self.prune_threshold)
        prune = prune if isinstance(self.prune_threshold, Sequence) else prune * len(layers)
        if len(prune) != len(layers):
            raise ValueError(f"{self.name}: {len(layers)} layers need as many prune thresholds, and {len(prune)} came.")
        return replace(self, layers=layers, merge_threshold=merge, prune_threshold=prune)

    def thresholds(self, layer: int) -> tuple[float, float]:
        """Where block `layer` starts: above 1, or from 0 on, nothing happens."""
        assert isinstance(self.layers, tuple), "build() comes first"
        assert isinstance(self.merge_threshold, tuple) and isinstance(self.prune_threshold, tuple)
        if layer not in self.layers:
            return 1.0, 0.0
        place = self.layers.index(layer)
        return self.merge_threshold[place], self.prune_threshold[place]

    def is_active(self, layer: int, num_patches: int) -> bool:
        return self.thresholds(layer) != (1, 0)

    def extra_macs(self, layer: int, num_patches: int, spec: ViTSpec) -> int:
        if not self.is_active(layer, num_patches):
            return 0
        receiving = (num_patches + spec.num_prefix) ** 2 * spec.attention_channels
        return match_macs(num_patches, spec.head_channels) + receiving

    def make_weights(self, layer: int, spec: ViTSpec) -> nn.Module | None:
        active = [each for each in range(spec.depth) if self.is_active(each, spec.num_patches)]
        if layer not in active:
            return None
        return Thresholds(*self.thresholds(layer), block_costs(active, spec)[layer], learn=self.target is not None)

    def losses(self, collected: tuple[Tensor, ...], logits_BK: Tensor, criterion: Criterion) -> dict[str, Tensor]:
        return {"cost": WEIGHT * torch.stack(collected).sum().square()}

    def settled(self, weights: Sequence[nn.Module | None]) -> LTMP:
        if self.target is None:
            return self
        learned = [each for each in weights if isinstance(each, Thresholds)]
        merge = tuple(min(1.0, max(1e-6, each.merge_threshold.item())) for each in learned)
        prune = tuple(min(1.0, max(0.0, each.prune_threshold.item())) for each in learned)
        layers = tuple(layer for layer, each in enumerate(weights) if isinstance(each, Thresholds))
        return replace(self, merge_threshold=merge, prune_threshold=prune, layers=layers, target=None)

    def after_attention(self, layer: int, tokens: Tokens, attention: Attention) -> Tokens:
        if tokens.x_BNC.is_meta:
            raise ValueError(f"{self.name}: how many patches stay depends on the image, and the meta device has none.")
        if self.target is not None and isinstance(self.weights, Thresholds) and self.weights.training:
            return self._train(tokens, attention, self.weights)
        merge, prune = self._at(layer, tokens.x_BNC)
        best_BN, target_BN = partners(tokens, attention, live_patches(tokens))
        joins_BN = best_BN > merge
        received_BN = attention.received().mean(dim=1)[:, tokens.num_prefix :]
        joining_BN = torch.where(joins_BN, received_BN, 0.0)
        received_BN = received_BN.scatter_reduce(1, target_BN, joining_BN, "amax").masked_fill(joins_BN, 0.0)
        most_B1 = received_BN.argmax(dim=1, keepdim=True)
        kept_BN = ((received_BN > prune) & ~joins_BN).scatter(1, most_B1, True)
        order_BN = even_places_first(live_patches(tokens), tokens.num_prefix)
        target_BN = places(order_BN).gather(1, target_BN)
        joins_BN, target_BN, kept_BN = (each.gather(1, order_BN) for each in (joins_BN, target_BN, kept_BN))
        return merge_where(reorder(tokens, order_BN), joins_BN, target_BN, kept_BN)

    def _train(self, tokens: Tokens, attention: Attention, weights: Thresholds) -> Tokens:
        """One block in training: masks in place of removal."""
        assert self.target is not None
        pairs = partners(tokens, attention, masking.live_patches(tokens).detach() > 0.5)
        received_BN = attention.received().mean(dim=1)[:, tokens.num_prefix :]
        out, entering, leaving = masked_step(tokens, *pairs, received_BN, weights)
        return out.collect(self.name, weights.cost.share(entering, leaving) - self.target / weights.cost.parts)

    def _at(self, layer: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """The thresholds of this block, as learned if they are."""
        if isinstance(self.weights, Thresholds):
            merge, prune = self.weights.merge_threshold.detach(), self.weights.prune_threshold.detach()
        else:
            merge, prune = torch.tensor(self.thresholds(layer), device=like.device).unbind()
        return at_least_fp32(merge), at_least_fp32(prune)


def _several(value: float | Sequence[float]) -> tuple[float, ...]:
    return tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else (value,)
