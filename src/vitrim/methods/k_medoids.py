"""K-Medoids, as a comparison of token reduction methods uses it (Haurum et al., ICCV workshops 2023).

Paper: https://arxiv.org/abs/2308.04657. Official code: https://github.com/JoakimHaurum/TokenReduction (MIT in part;
this file is written from what it computes). Before a reducing block the patches are clustered around some of them, the
medoids, which alone stay.

    c_i = w_i Σ_j ‖x_i - x_j‖    over all patches j; w_i: attention received in the block before, or 1
    start: the patches of the largest w
    repeat: each patch joins the nearest medoid; the medoid of a cluster becomes its patch of the smallest c

As in the official code: c runs over all patches, not over those of the cluster, so that clusters only limit who may
be chosen; and a patch that receives much attention is the dearer for it, although these are the ones to start from.
With weighting="equal" the start is one patch, then again and again the one that lies farthest from any chosen before
(from the farthest of them, as released, not from the nearest).
Different: there the first patch is drawn at random; here it is the one of the smallest c. A medoid always stays in its
own cluster, also if another equals it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..core import ops, portable
from ..core.attention import Attention
from ..core.choices import check_choice
from ..core.grouping import Groups, groups_from, marked
from ..core.matching import squared_distances
from ..core.schedule import is_whole
from ..core.scored import score_macs
from ..core.selection import places
from ..core.spec import ViTSpec
from ..core.staged import StagedMethod
from ..core.tokens import Tokens

MedoidWeighting = Literal["attention", "equal"]


@dataclass(frozen=True, kw_only=True)
class KMedoids(StagedMethod):
    """Cluster the patches around medoids before a block, and keep the medoids.

    Args:
        keep_rate: share of the patches that a stage leaves, one number or one per layer; above 0, at most 1. The counts
            are int(P * rate * rate ...), P the patches of an image.
        layers: reducing blocks, 0-based and increasing; None means a quarter of the depth apart (3, 6, 9 of 12).
        patches: P; None means the model's. Images of another size take the counts in proportion.
        iterations: how often patches join medoids, and clusters choose theirs.
        weighting: attention (what a patch received in the block before, from all tokens) or equal.

    Raises:
        ValueError: If no model can take a setting. `reduce_tokens` raises it for the model at hand.

    Source:
        Haurum et al., ICCV workshops 2023, https://arxiv.org/abs/2308.04657.

    >>> KMedoids(keep_rate=0.5).iterations
    3
    """

    name = "k_medoids"

    iterations: int = 3
    weighting: MedoidWeighting = "attention"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self.weighting, MedoidWeighting, f"{self.name}: weighting")
        if not is_whole(self.iterations) or self.iterations < 1:
            raise ValueError(f"{self.name}: iterations is a whole number of at least 1, not {self.iterations!r}.")

    @property
    def first_layer(self) -> int:
        return 1 if self.weighting == "attention" else 0

    def is_active(self, layer: int, num_patches: int) -> bool:
        return super().is_active(layer, num_patches) or self._watches(layer, num_patches)

    def _watches(self, layer: int, num_patches: int) -> bool:
        """Whether the attention of block `layer` weighs the patches for the next one."""
        return self.weighting == "attention" and self.num_kept(layer + 1, num_patches) < num_patches

    def extra_macs(self, layer: int, num_patches: int, spec: ViTSpec) -> int:
        num_kept = self.num_kept(layer, num_patches)
        watching = score_macs("received", num_kept, spec) if self._watches(layer, num_kept) else 0
        return watching + (num_patches**2 * spec.channels if num_kept < num_patches else 0)

    def after_attention(self, layer: int, tokens: Tokens, attention: Attention) -> Tokens:
        if not self._watches(layer, tokens.num_patches):
            return tokens
        return tokens._replace(memory=(attention.received().mean(dim=1)[:, tokens.num_prefix :].detach(),))

    def reduce(self, layer: int, tokens: Tokens, num_kept: int) -> Tokens:
        weight_BN = tokens.memory[0] if self.weighting == "attention" else None
        groups = medoids(tokens.patches_BNC, num_kept, self.iterations, weight_BN)
        return ops.keep(tokens._replace(memory=()), groups.centre)


@torch.no_grad()
def medoids(
    x_BNC: Tensor, num_groups: int, iterations: int, weight_BN: Tensor | None, first_B1: Tensor | None = None
) -> Groups:
    """K-medoids. weight_BN: what each token weighs; None: the same. first_B1: then the first token of the start."""
    N = x_BNC.shape[1]
    distance_BNN = squared_distances(x_BNC, x_BNC).sqrt()
    token_N, group_K = (torch.arange(n, device=x_BNC.device) for n in (N, num_groups))
    distance_BNN = distance_BNN.masked_fill(token_N == token_N.unsqueeze(1), 0.0)
    total_BN = distance_BNN.sum(dim=2)
    if weight_BN is None:
        rank_BN = places(portable.order(-total_BN))
        centre_BK = spread_out(distance_BNN, num_groups, rank_BN.argmin(dim=1, keepdim=True), first_B1)
    else:
        rank_BN = places(portable.order(-total_BN * weight_BN))
        centre_BK = portable.order(weight_BN)[:, :num_groups]
    for _ in range(iterations):
        slot_BN = _nearest(distance_BNN, centre_BK, group_K)
        apart_BKN = slot_BN.unsqueeze(1) != group_K.unsqueeze(1)
        centre_BK = rank_BN.unsqueeze(1).masked_fill(apart_BKN, N).argmin(dim=2)
    parent_BN = centre_BK.gather(1, _nearest(distance_BNN, centre_BK, group_K))
    return groups_from(~marked(centre_BK, N), parent_BN, num_groups)


def _nearest(distance_BNN: Tensor, centre_BK: Tensor, group_K: Tensor) -> Tensor:
    """Which centre each token is nearest to, [B, N]; a centre is nearest to itself."""
    nearest_BN = ops.take(distance_BNN, centre_BK).argmin(dim=1)
    return nearest_BN.scatter(1, centre_BK, group_K.expand_as(centre_BK))


def spread_out(distance_BNN: Tensor, num: int, middle_B1: Tensor, first_B1: Tensor | None) -> Tensor:
    """Tokens that lie far from each other, [B, num]: the first, or the middle one, then what is farthest from any."""
    chosen_BX = middle_B1 if first_B1 is None else first_B1
    farthest_BN = torch.zeros_like(distance_BNN[:, 0])
    for _ in range(num - 1):
        farthest_BN = torch.maximum(farthest_BN, ops.take(distance_BNN, chosen_BX[:, -1:]).squeeze(1))
        next_B1 = farthest_BN.scatter(1, chosen_BX, -1.0).argmax(dim=1, keepdim=True)
        chosen_BX = torch.cat([chosen_BX, next_B1], dim=1)
    return chosen_BX
