"""LTMP: Learned Thresholds Token Merging and Pruning for Vision Transformers (Bonnaerens and Dambre, TMLR 2023).

Paper: https://arxiv.org/abs/2307.10780. Official code: https://github.com/Mxbonn/ltmp (no licence; this file is written
from the paper and from what the code computes). Every block has two thresholds. Patches merge with a partner that
they resemble more than the first says, and then those go that receive no more attention than the second says.

    i joins its best partner j if cos(k_i, k_j) > θ_merge    k: keys, mean over heads; pairs as in ToMe
    x_j = (s_j x_j + Σ s_i x_i) / (s_j + Σ s_i),    a_j = max a_i    over the i that join j
    j stays if a_j > θ_prune    a: attention received, mean over heads and queries; log s is added to the logits

This is the form for inference. Thresholds are weights (`blocks.<layer>.method.merge_threshold`, `.prune_threshold`)
that start at the settings and are trained elsewhere; here they are frozen.
As in the official code: its inference, which removes tokens, and their order, patches at even places first. Its
training masks tokens, and is another function.
Different: images of a batch keep different numbers and are packed, where the official code takes one image at a time;
an image from which all patches would go keeps the one that receives most attention.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ..core import packing, portable, schedule
from ..core.amount import Share
from ..core.attention import Attention
from ..core.matching import match_macs
from ..core.method import Method
from ..core.precision import at_least_fp32, matmul_fp32
from ..core.selection import live_patches, merge_where, places, reorder
from ..core.spec import ViTSpec
from ..core.tokens import Tokens


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

    Raises:
        ValueError: for a setting that no model could take. Where it does not fit a model, `reduce_tokens` says so.

    Source:
        Bonnaerens and Dambre, TMLR 2023, https://arxiv.org/abs/2307.10780.

    >>> LTMP(merge_threshold=0.8)
    LTMP(merge_threshold=0.8, prune_threshold=0.0, layers=None)
    """

    name = "ltmp"
    merges = drops = size_in_attention = by_position = True
    amount = Share("merge_threshold", "merge {:g}", neutral=1.0, usual=0.9, solved=False)

    merge_threshold: float | Sequence[float] = 0.9
    prune_threshold: float | Sequence[float] = 0.0
    layers: Sequence[int] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        schedule.check_reducing(self.layers, self.name)
        schedule.check_shares(self.merge_threshold, self.name, "merge threshold")
        for least in _several(self.prune_threshold):
            if not schedule.is_number(least) or not 0 <= least <= 1:
                raise ValueError(f"{self.name}: a prune threshold is a number from 0 to 1, not {least!r}.")

    @property
    def varies(self) -> bool:
        return any(most != 1 for most in _several(self.merge_threshold)) or any(_several(self.prune_threshold))

    def build(self, spec: ViTSpec) -> LTMP:
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
        return Thresholds(*self.thresholds(layer)) if self.is_active(layer, spec.num_patches) else None

    def after_attention(self, layer: int, tokens: Tokens, attention: Attention) -> Tokens:
        if tokens.x_BNC.is_meta:
            raise ValueError(f"{self.name}: how many patches stay depends on the image, and the meta device has none.")
        merge, prune = self._at(layer, tokens.x_BNC)
        joins_BN, target_BN = partners(tokens, attention, merge)
        received_BN = attention.received().mean(dim=1)[:, tokens.num_prefix :]
        joining_BN = torch.where(joins_BN, received_BN, 0.0)
        received_BN = received_BN.scatter_reduce(1, target_BN, joining_BN, "amax").masked_fill(joins_BN, 0.0)
        most_B1 = received_BN.argmax(dim=1, keepdim=True)
        kept_BN = ((received_BN > prune) & ~joins_BN).scatter(1, most_B1, True)
        order_BN = even_places_first(live_patches(tokens), tokens.num_prefix)
        target_BN = places(order_BN).gather(1, target_BN)
        joins_BN, target_BN, kept_BN = (each.gather(1, order_BN) for each in (joins_BN, target_BN, kept_BN))
        return merge_where(reorder(tokens, order_BN), joins_BN, target_BN, kept_BN)

    def _at(self, layer: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """The thresholds of this block, as learned if they are."""
        if isinstance(self.weights, Thresholds):
            merge, prune = self.weights.merge_threshold.detach(), self.weights.prune_threshold.detach()
        else:
            merge, prune = torch.tensor(self.thresholds(layer), device=like.device).unbind()
        return at_least_fp32(merge), at_least_fp32(prune)


class Thresholds(nn.Module):
    """What one block learns."""

    def __init__(self, merge: float, prune: float):
        super().__init__()
        self.merge_threshold = nn.Parameter(torch.tensor([float(merge)]), requires_grad=False)
        self.prune_threshold = nn.Parameter(torch.tensor([float(prune)]), requires_grad=False)


def partners(tokens: Tokens, attention: Attention, threshold: Tensor) -> tuple[Tensor, Tensor]:
    """Which patches join another, and which: each at an even place the most similar one at an odd place.

    Both [B, N - prefix], padded if packed.
    """
    key_BND = attention.mean_key()
    if tokens.lengths is not None:
        key_BND = packing.pad(key_BND[0], tokens.lengths)
    unit_BND, live_BN = portable.unit(key_BND)[:, tokens.num_prefix :], live_patches(tokens)
    joins_BN, target_BN = torch.zeros_like(live_BN), torch.zeros_like(live_BN, dtype=torch.long)
    first = tokens.num_prefix % 2
    if live_BN.shape[1] < 2:
        return joins_BN, target_BN
    similarity_BAB = matmul_fp32(unit_BND[:, first::2], unit_BND[:, 1 - first :: 2].transpose(1, 2))
    similarity_BAB = similarity_BAB.masked_fill(~live_BN[:, None, 1 - first :: 2], -torch.inf)
    best_BA, partner_BA = similarity_BAB.max(dim=-1)
    joins_BN[:, first::2] = (best_BA > threshold) & live_BN[:, first::2]
    target_BN[:, first::2] = partner_BA * 2 + 1 - first
    return joins_BN, target_BN


def even_places_first(live_BN: Tensor, num_prefix: int) -> Tensor:
    """The order of ToMe, by which the next block pairs others: patches at even places, then those at odd ones."""
    N = live_BN.shape[1]
    index_N = torch.arange(N, device=live_BN.device)
    group_N = (index_N + num_prefix) % 2
    return torch.where(live_BN, group_N * N + index_N, 2 * N + index_N).argsort(dim=1)


def _several(value: float | Sequence[float]) -> tuple[float, ...]:
    return tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else (value,)
