"""The method: counts of a reducing layer, and what happens to attentive and inattentive patches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn

from ...core import ops, portable
from ...core.attention import Attention
from ...core.choices import check_choice
from ...core.grouping import density_peaks
from ...core.schedule import is_whole
from ...core.scored import ScoredMethod, patch_scores
from ...core.spec import ViTSpec
from ...core.tokens import Tokens
from . import grouping
from .counts import Split, attentive_of, share_logged
from .subsample import Convolution, Gate

Inattentive = Literal["cluster", "kmeans", "average", "max", "spatial", "conv", "mlp", "fuse", "drop"]

L = TypeVar("L", Convolution, Gate)


@dataclass(frozen=True, kw_only=True)
class BeyondAttentive(ScoredMethod):
    """Cluster the inattentive patches, match the attentive ones.

    Args:
        keep_rate: share of the patches that enter a reducing block, one number or one per layer; above 0, at most 1.
        layers: reducing blocks, 0-based and increasing; None means a quarter of the depth apart (3, 6, 9 of 12).
        r: patches that go in each of these blocks, one number or one per layer, in place of keep_rate.
        scorer: cls, received, norm or shift, see `patch_scores`. cls needs a class token.
        inattentive: what happens to inattentive patches. cluster uses density peaks. The others are from the paper's
            Tables 3 and 4: drop; fuse (one token, as in EViT); average and max (groups of neighbours in rank); spatial
            (groups of neighbours in the sequence); kmeans; and conv and mlp, which are learned and need training.
        match: whether the most similar attentive patches merge.
        clusters, pairs: numbers per reducing layer, one for all or one per layer. None takes a tenth of the inattentive
            patches as clusters, and as many pairs as give the token count of the published logs.
        neighbours: number of nearest tokens, itself included, for the density.
        iterations: iterations of kmeans.
        normalize: whether the weights of a group sum to 1. False follows eq. 8 literally.

    Raises:
        ValueError: If no model can take a setting. `reduce_tokens` raises it for the model at hand.

    Source:
        Long et al., CVPR 2023, https://arxiv.org/abs/2211.11315, eq. 5 to 8.
    """

    name = "beyond_attentive"

    inattentive: Inattentive = "cluster"
    match: bool = True
    clusters: int | Sequence[int] | None = None
    pairs: int | Sequence[int] | None = None
    neighbours: int = 5
    iterations: int = 1
    normalize: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self.inattentive, Inattentive, f"{self.name}: inattentive")
        self._check_counts()

    @property
    def merges(self) -> bool:
        return self.match or self.inattentive != "drop"

    @property
    def fuses(self) -> bool:
        return self.inattentive == "fuse"

    @property
    def needs_training(self) -> bool:
        return self.inattentive in ("conv", "mlp")

    @property
    def by_position(self) -> bool:
        return self.inattentive in ("spatial", "conv")

    def build(self, spec: ViTSpec) -> BeyondAttentive:
        return super().build(spec).fits(spec)

    def _check_counts(self) -> None:
        if self.inattentive in ("fuse", "drop") and self.clusters is not None:
            raise ValueError(f"{self.name}: inattentive={self.inattentive!r} makes no clusters: leave clusters out.")
        if not self.match and self.pairs is not None:
            raise ValueError(f"{self.name}: match=False makes no pairs: leave pairs out.")
        smallest = {"clusters": 1, "pairs": 0, "neighbours": 1, "iterations": 1}
        for setting, least in smallest.items():
            value = getattr(self, setting)
            several = setting in ("clusters", "pairs")  # None, or one for each layer
            values = value if several and isinstance(value, (tuple, list)) else (value,)
            if not (several and value is None) and not all(is_whole(number) and number >= least for number in values):
                raise ValueError(f"{self.name}: {setting} must be a whole number of at least {least}, not {value!r}.")

    def split(self, layer: int, num_patches: int) -> Split:
        """The counts of one reducing layer. ValueError if clusters or pairs do not fit."""
        attentive, wanted = self._leaving(layer, num_patches)
        inattentive = num_patches - attentive
        if inattentive == 0:
            return Split(attentive, 0, 0, 0)
        clusters = {"drop": 0, "fuse": 1}.get(self.inattentive)
        if clusters is None:
            clusters = self._setting(self.clusters, layer)
        if clusters is None:
            share = round(inattentive / 10)
            if self.r is not None:  # the count is exact, and an attentive patch is left
                share = min(share, wanted - 1) if self.match else 0
            clusters = min(inattentive, max(1, wanted - attentive, share))
        pairs = self._setting(self.pairs, layer) if self.match else 0
        if pairs is None:
            pairs = min(attentive - 1, max(0, attentive + clusters - wanted))
        if not 0 <= pairs < attentive or not 0 <= clusters <= inattentive:
            raise ValueError(
                f"{self.name}: block {layer} splits {num_patches} patches into {attentive} attentive and {inattentive} "
                f"inattentive ones, which is too few for {pairs} pairs and {clusters} clusters."
            )
        if self.r is not None and attentive - pairs + clusters != wanted:
            raise ValueError(
                f"{self.name}: with {clusters} clusters and {pairs} pairs, block {layer} leaves "
                f"{attentive - pairs + clusters} of {num_patches} patches, not {wanted} as r wants: "
                "take a smaller r, or leave clusters and pairs out."
            )
        return Split(attentive, inattentive, clusters, pairs)

    def _leaving(self, layer: int, num_patches: int) -> tuple[int, int]:
        """How many patches are attentive, and how many tokens leave this layer, as in the logs or as r says."""
        if self.r is None:
            return self.num_attentive(layer, num_patches), round(share_logged(self.rate(layer)) * num_patches)
        removed = self.num_removed(layer, num_patches)
        wanted = num_patches - removed
        fixed = {"drop": 0, "fuse": 1}.get(self.inattentive)
        if removed == 0 or self.match:
            least = 1 if fixed is None else wanted - fixed
            return max(least, attentive_of(wanted, num_patches)), wanted
        clusters = self._setting(self.clusters, layer) if fixed is None else fixed
        return wanted - (max(1, min(round(removed / 10), wanted - 1)) if clusters is None else clusters), wanted

    def num_kept(self, layer: int, num_patches: int) -> int:
        split = self.split(layer, num_patches)
        return split.attentive - split.pairs + split.clusters

    def extra_macs(self, layer: int, num_patches: int, spec: ViTSpec) -> int:
        split = self.split(layer, num_patches)
        if split.inattentive == 0:
            return 0
        M, C = split.inattentive, spec.channels
        grouping_macs = {
            "cluster": M**2 * C,
            "kmeans": M * split.clusters * self.iterations * C,
            "conv": Convolution.macs(M, split.clusters, C),
            "mlp": Gate.macs(M, C),
        }
        matching_macs = split.attentive**2 * C if split.pairs else 0
        return self.score_macs(num_patches, spec) + grouping_macs.get(self.inattentive, 0) + matching_macs

    def make_weights(self, layer: int, spec: ViTSpec) -> nn.Module | None:
        assert isinstance(self.layers, tuple), "build() comes first"
        kind = {"conv": Convolution, "mlp": Gate}.get(self.inattentive)
        return kind(spec.channels) if kind is not None and layer in self.layers else None

    def after_attention(self, layer: int, tokens: Tokens, attention: Attention) -> Tokens:
        split = self.split(layer, tokens.num_patches)
        score_BN = patch_scores(self.scorer, tokens, attention)
        attentive, inattentive = ops.rank(score_BN, split.attentive)
        if self.inattentive in ("spatial", "conv"):
            inattentive = portable.ascending(inattentive)
        weight_BN = self._weigh(layer, tokens, inattentive, score_BN, split)
        kept, merged, target = self._match(tokens, attentive, split.pairs)
        if split.clusters > 0:
            centres, members, cluster = self._group(tokens, inattentive, split.clusters)
            target = torch.cat([target, cluster + kept.shape[1]], dim=1)
            kept, merged = torch.cat([kept, centres], dim=1), torch.cat([merged, members], dim=1)
        how = "max" if self.inattentive == "max" else "mean" if self.normalize else "sum"
        merged_tokens = ops.merge(tokens, kept, merged, target, weight_BN, how=how)
        if self.inattentive != "conv":
            return merged_tokens
        x_BMC = ops.take(tokens.x_BNC, inattentive + tokens.num_prefix)
        return ops.replace_last(merged_tokens, self._learned(layer, Convolution)(x_BMC, split.clusters))

    def _weigh(self, layer: int, tokens: Tokens, inattentive: Tensor, score_BN: Tensor, split: Split) -> Tensor:
        """The weight of each patch in its group: its score, or what was learned for inattentive ones."""
        if self.inattentive == "conv":
            share_M = Convolution.shares(split.inattentive, split.clusters, score_BN)
            return score_BN.scatter(1, inattentive, share_M.expand_as(inattentive))
        if self.inattentive == "mlp":
            factor_BM = self._learned(layer, Gate)(ops.take(tokens.x_BNC, inattentive + tokens.num_prefix))
            return score_BN.scatter(1, inattentive, score_BN.gather(1, inattentive) * factor_BM.to(score_BN.dtype))
        return score_BN

    def _learned(self, layer: int, kind: type[L]) -> L:
        if not isinstance(self.weights, kind):
            raise ValueError(
                f"{self.name}: block {layer} has no weights for inattentive={self.inattentive!r}: apply the method "
                "with reduce_tokens, which makes them."
            )
        return self.weights

    def _match(self, tokens: Tokens, attentive: Tensor, pairs: int) -> tuple[Tensor, Tensor, Tensor]:
        """Attentive patches that stay, those that merge, and the position that each of them merges into."""
        if pairs == 0:
            return attentive, attentive[:, :0], attentive[:, :0]
        groups = grouping.match_similar(ops.take(tokens.x_BNC, attentive + tokens.num_prefix), pairs)
        return attentive.gather(1, groups.centre), attentive.gather(1, groups.member), groups.slot

    def _group(self, tokens: Tokens, inattentive: Tensor, clusters: int) -> tuple[Tensor, Tensor, Tensor]:
        """The same for the inattentive patches: group centres, members, and the group of each member."""
        if self.inattentive in ("cluster", "kmeans"):
            x = ops.take(tokens.x_BNC, inattentive + tokens.num_prefix)
            if self.inattentive == "cluster":
                groups = density_peaks(x, clusters, self.neighbours)
            else:
                groups = grouping.kmeans(x, clusters, self.iterations)
        else:
            B, M = inattentive.shape
            groups = grouping.consecutive(B, M, clusters, inattentive.device)
        return inattentive.gather(1, groups.centre), inattentive.gather(1, groups.member), groups.slot

    def _setting(self, setting: int | Sequence[int] | None, layer: int) -> int | None:
        if setting is None or isinstance(setting, int):
            return setting
        assert isinstance(self.layers, tuple), "build() comes first"
        if len(setting) != len(self.layers):
            raise ValueError(f"{self.name}: {len(self.layers)} reducing layers need one entry each, not {setting}.")
        return setting[self.layers.index(layer)]
