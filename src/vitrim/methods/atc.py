"""ATC: Agglomerative Token Clustering (Haurum et al., ECCV 2024).

Paper: https://arxiv.org/abs/2409.11923. Official code: https://github.com/JoakimHaurum/ATC (MIT in part; this file is
written from what it computes). The patches of a block are clustered from the bottom up: the two clusters that are
nearest become one, until as many are left as wanted. Each cluster becomes the mean of its patches, weighted by size.

    d_ij = 1 - cos(k_i, k_j)    k: keys, mean over heads
    d(A, B) = min d_ij (single), max d_ij (complete) or mean d_ij (average linkage)    over i in A and j in B
    x_A = Σ s_i x_i / Σ s_i    over the i in A; attention adds log s_A as in ToMe

As in the official code: the class token is never clustered. Average linkage counts tokens, not the patches in them.
Different: without training, the official code counts the class token when it computes the number of clusters from r,
so its r = 8 removes 7 patches. Here r removes r patches. The official code clusters image by image with scikit-learn;
here all images of a batch are clustered together, and ties go to the lower indices.
The fine-tuned models have int(P rate^s) clusters after the s-th of three blocks, of P patches at the start. With 196
patches and 0.7 that is r=[59, 41, 29], layers=(3, 6, 9). A cluster takes the position of its first patch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..core import ops
from ..core.amount import PerBlock
from ..core.attention import Attention
from ..core.choices import check_choice
from ..core.grouping import Groups, groups_from
from ..core.matching import cosines
from ..core.removing import RemovingMethod
from ..core.spec import ViTSpec
from ..core.tokens import Tokens

Linkage = Literal["single", "complete", "average"]


@dataclass(frozen=True, kw_only=True)
class ATC(RemovingMethod):
    """Cluster the patches from the bottom up, and merge each cluster.

    Args:
        r: patches to remove per block: one number; a pair (r, inflect), which runs linearly from r (1 - inflect) in the
            first block to r (1 + inflect) in the last; or a list, one number per block, padded with 0. At least one
            patch is left.
        layers: the blocks that cluster, 0-based and increasing; None means every block. A list of r then has a number
            for each of them.
        clamp: whether a block that is asked for more leaves one patch; otherwise it is an error.
        linkage: the distance between two clusters: single, complete or average.
        prop_attn: whether attention adds log(size) to the logits.

    Raises:
        ValueError: If no model can take a setting. `reduce_tokens` raises it for the model at hand.

    Source:
        Haurum et al., ECCV 2024, https://arxiv.org/abs/2409.11923.

    >>> ATC(r=8, linkage="complete")
    ATC(r=8, layers=None, clamp=False, linkage='complete', prop_attn=True)
    """

    name = "atc"
    R = PerBlock("r", "r {:g}", neutral=0, usual=13)
    merges = True

    linkage: Linkage = "average"
    prop_attn: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self.linkage, Linkage, f"{self.name}: linkage")

    def most_removed(self, num_patches: int) -> int:
        return num_patches - 1

    def extra_macs(self, layer: int, num_patches: int, spec: ViTSpec) -> int:
        return num_patches**2 * spec.head_channels if self.is_active(layer, num_patches) else 0

    def after_attention(self, layer: int, tokens: Tokens, attention: Attention) -> Tokens:
        num_kept = self.num_kept(layer, tokens.num_patches)
        groups = agglomerate(attention.mean_key()[:, tokens.num_prefix :], num_kept, self.linkage)
        return ops.merge(tokens, groups.centre, groups.member, groups.slot, None)


@torch.no_grad()
def agglomerate(metric_BPD: Tensor, num_groups: int, linkage: Linkage) -> Groups:
    """Clusters by cosine distance, from the bottom up; the centre of each is the token of lowest index."""
    B, P, _ = metric_BPD.shape
    token_P = torch.arange(P, device=metric_BPD.device)
    distance_BPP = (1 - cosines(metric_BPD, metric_BPD)).masked_fill(token_P == token_P.unsqueeze(1), torch.inf)
    count_BP = torch.ones_like(distance_BPP[:, :, 0])
    first_BP = token_P.expand(B, P)  # lowest index in the cluster of each token
    for _ in range(P - num_groups):
        place_B1 = distance_BPP.flatten(1).argmin(dim=1, keepdim=True)
        a_B1, b_B1 = place_B1 // P, place_B1 % P
        low_B1, high_B1 = torch.minimum(a_B1, b_B1), torch.maximum(a_B1, b_B1)
        here_BP = token_P == low_B1
        row_BP = _joined(distance_BPP, count_BP, low_B1, high_B1, linkage).masked_fill(here_BP, torch.inf)
        low_B1P, high_B1P = (index_B1.unsqueeze(1).expand(B, 1, P) for index_B1 in (low_B1, high_B1))
        distance_BPP.scatter_(1, low_B1P, row_BP.unsqueeze(1)).scatter_(2, low_B1P.mT, row_BP.unsqueeze(2))
        distance_BPP.scatter_(1, high_B1P, torch.inf).scatter_(2, high_B1P.mT, torch.inf)
        count_BP = torch.where(here_BP, count_BP + count_BP.gather(1, high_B1), count_BP)
        first_BP = torch.where(first_BP == high_B1, low_B1, first_BP)
    return groups_from(first_BP != token_P, first_BP, num_groups)


def _joined(distance_BPP: Tensor, count_BP: Tensor, low_B1: Tensor, high_B1: Tensor, linkage: Linkage) -> Tensor:
    """How far all clusters are from the union of two: [B, P]."""
    low_BP, high_BP = (
        distance_BPP.gather(1, index_B1.unsqueeze(1).expand(-1, 1, distance_BPP.shape[2])).squeeze(1)
        for index_B1 in (low_B1, high_B1)
    )
    if linkage == "single":
        return torch.minimum(low_BP, high_BP)
    if linkage == "complete":
        return torch.maximum(low_BP, high_BP)
    low_count, high_count = count_BP.gather(1, low_B1), count_BP.gather(1, high_B1)
    return (low_BP * low_count + high_BP * high_count) / (low_count + high_count)
