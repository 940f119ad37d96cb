"""Merge what is alike: every image merges as many patches as resemble each other enough. Not a method of any paper.

In the spirit of ATM (Lee and Choi, Lossless Token Merging Even Without Fine-Tuning in Vision Transformers, 2025,
https://arxiv.org/abs/2505.15160), which has a threshold of similarity for every block, a lower one in deeper blocks,
and late blocks that match small tokens with large ones. The values of its settings, and how it cuts the images of a
batch to one count, could not be read, so this is another method, under a name of its own.

    i joins its best partner j if cos(k_i, k_j) > θ_l    k: keys, mean over heads
    θ_l = max(1 - (1 - θ) e^(growth l), least)           l: the block, from 0; θ: the setting `threshold`
    x_j = (s_j x_j + Σ s_i x_i) / (s_j + Σ s_i)          over the i that join j; attention adds log s as in ToMe

Pairs are those of ToMe, between even and odd places. From block `by_size` on they are between the smaller half of an
image's patches, by size, and the larger one, since to merge two groups costs n_i n_j / (n_i + n_j) (1 - cos): a small
one is cheap. Images of a batch keep different numbers, none is padded, and none depends on the others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..core import schedule
from ..core.amount import Share
from ..core.attention import Attention
from ..core.matching import match_macs
from ..core.method import Method
from ..core.ops import patch_sizes
from ..core.pairs import even_places_first, partners, partners_among
from ..core.selection import live_patches, merge_where, places, reorder
from ..core.spec import ViTSpec
from ..core.tokens import Tokens


@dataclass(frozen=True, kw_only=True)
class MergeAlike(Method):
    """Merge the patches that resemble a partner more than a threshold, a lower one in deeper blocks.

    Such a model can be neither compiled nor exported, and its multiply-adds depend on the image.
    `method_for_macs(model, "merge_alike", gmacs, images_ICHW=...)` finds the threshold for a budget.

    Args:
        threshold: cosine above which a patch joins its best partner in the first block, above 0, at most 1; 1 merges
            nothing. Or a list, one number per layer, which is not changed from block to block.
        growth: how fast the distance of the threshold to 1 grows: by e^growth per block. 0: the same in all blocks.
        least: what no threshold falls below.
        by_size: the first block that pairs small patches with large ones, 0-based; None means none.
        layers: the blocks that merge, 0-based and increasing; None means every block.
        prop_attn: whether attention adds log(size) to the logits.

    Raises:
        ValueError: If no model can take a setting. `reduce_tokens` raises it for the model at hand.

    >>> MergeAlike(threshold=0.8).growth
    0.1
    """

    name = "merge_alike"
    merges = by_position = True
    amount = Share("threshold", "threshold {:g}", neutral=1.0, usual=0.9, solved=False)

    threshold: float | Sequence[float] = 0.9
    growth: float = 0.1
    least: float = 0.5
    by_size: int | None = None
    layers: Sequence[int] | None = None
    prop_attn: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        schedule.check_reducing(self.layers, self.name)
        schedule.check_shares(self.threshold, self.name, "threshold")
        if not schedule.is_number(self.growth) or not 0 <= self.growth <= 10:
            raise ValueError(f"{self.name}: growth is a number from 0 to 10, not {self.growth!r}.")
        if not schedule.is_number(self.least) or not -1 <= self.least <= 1:
            raise ValueError(f"{self.name}: least is a cosine from -1 to 1, not {self.least!r}.")
        if self.by_size is not None and not (schedule.is_whole(self.by_size) and self.by_size >= 0):
            raise ValueError(f"{self.name}: by_size is a block, 0 or more, or None, not {self.by_size!r}.")

    @property
    def varies(self) -> bool:
        given = self.threshold if isinstance(self.threshold, Sequence) else (self.threshold,)
        return any(each != 1 for each in given)

    def build(self, spec: ViTSpec) -> MergeAlike:
        layers = tuple(range(spec.depth)) if self.layers is None else self.layers
        layers = schedule.check_layers(layers, spec.depth, self.name)
        if isinstance(self.threshold, Sequence):
            thresholds = schedule.check_rates(self.threshold, len(layers), self.name, "threshold")
        else:
            apart = 1 - self.threshold
            thresholds = tuple(max(1 - apart * math.exp(self.growth * layer), self.least, 1e-6) for layer in layers)
        return replace(self, layers=layers, threshold=thresholds)

    def threshold_at(self, layer: int) -> float:
        """The threshold of block `layer`; 1 if it does not merge."""
        assert isinstance(self.layers, tuple) and isinstance(self.threshold, tuple), "build() comes first"
        return self.threshold[self.layers.index(layer)] if layer in self.layers else 1.0

    def is_active(self, layer: int, num_patches: int) -> bool:
        return self.threshold_at(layer) < 1

    def reducing_layers(self, spec: ViTSpec) -> tuple[int, ...]:
        return tuple(layer for layer in range(spec.depth) if self.is_active(layer, spec.num_patches))

    def extra_macs(self, layer: int, num_patches: int, spec: ViTSpec) -> int:
        if not self.is_active(layer, num_patches):
            return 0
        if self._is_by_size(layer):
            return num_patches**2 * spec.head_channels
        return match_macs(num_patches, spec.head_channels)

    def after_attention(self, layer: int, tokens: Tokens, attention: Attention) -> Tokens:
        if tokens.x_BNC.is_meta:
            raise ValueError(f"{self.name}: how many patches stay depends on the image, and the meta device has none.")
        live_BN = live_patches(tokens)
        if self._is_by_size(layer):
            small_BN = smaller_half(patch_sizes(tokens), live_BN)
            best_BN, target_BN = partners_among(tokens, attention, small_BN, live_BN & ~small_BN)
            joins_BN = best_BN > self.threshold_at(layer)
            return merge_where(tokens, joins_BN, target_BN, ~joins_BN)
        best_BN, target_BN = partners(tokens, attention, live_BN)
        order_BN = even_places_first(live_BN, tokens.num_prefix)
        joins_BN = (best_BN > self.threshold_at(layer)).gather(1, order_BN)
        target_BN = places(order_BN).gather(1, target_BN).gather(1, order_BN)
        return merge_where(reorder(tokens, order_BN), joins_BN, target_BN, ~joins_BN)

    def _is_by_size(self, layer: int) -> bool:
        return self.by_size is not None and layer >= self.by_size


def smaller_half(size_BN: Tensor, live_BN: Tensor) -> Tensor:
    """Which live patches are among the smaller half of their image: [B, N], bool. Of equal sizes, the later ones."""
    order_BN = torch.where(live_BN, size_BN, -1.0).argsort(dim=1, descending=True, stable=True)
    count_B1 = live_BN.sum(dim=1, keepdim=True)
    return live_BN & (places(order_BN) >= count_B1 - count_B1 // 2)
