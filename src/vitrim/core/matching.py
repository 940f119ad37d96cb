"""ToMe's bipartite matching, and distances between tokens. Several papers share them."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from . import ops, portable
from .precision import at_least_fp32, matmul_fp32


def match(
    metric_BND: Tensor, num_prefix: int, num_removed: int, mass_BP: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Bipartite soft matching (ToMe, section 3.2) of the patches behind the prefix, as arguments for `ops.merge`.

    Each token at an even position (A) is paired with the most similar one at an odd position (B). The num_removed
    best pairs merge, and several tokens of A may join one of B.

    mass_BP: a positive weight of each patch. The best pair is then the one that costs least to merge by Ward's
    criterion, (1 - similarity) * m_a m_b / (m_a + m_b), instead of the most similar one.
    """
    metric_BND = portable.unit(at_least_fp32(metric_BND))
    patches = metric_BND[:, num_prefix:]
    B, P = patches.shape[:2]
    first_a = num_prefix % 2
    a, b = patches[:, first_a::2], patches[:, 1 - first_a :: 2]
    similarity_BAM = matmul_fp32(a, b.transpose(1, 2))
    if mass_BP is not None:
        a_BA1, b_B1M = mass_BP[:, first_a::2].unsqueeze(2), mass_BP[:, 1 - first_a :: 2].unsqueeze(1)
        similarity_BAM = (similarity_BAM - 1) * (a_BA1 * b_B1M / (a_BA1 + b_B1M))
    similarity_BA, partner_BA = similarity_BAM.max(dim=-1)
    order_BA = portable.order(similarity_BA)
    position_BA = order_BA * 2 + first_a
    taken, left = position_BA[:, :num_removed], position_BA[:, num_removed:]
    if num_prefix > 0:  # without a prefix the official code keeps the order of falling similarity
        left = portable.ascending(left)
    position_B = torch.arange(1 - first_a, P, 2, device=patches.device).expand(B, -1)
    slot_BM = partner_BA.gather(1, order_BA[:, :num_removed]) + left.shape[1]
    return torch.cat([left, position_B], dim=1), taken, slot_BM


def match_macs(num_patches: int, channels: int) -> int:
    """Multiply-adds of `match` for one image. channels: of the metric."""
    return (num_patches // 2) * (num_patches - num_patches // 2) * channels


def match_heavier(
    metric_BND: Tensor, num_prefix: int, num_removed: int, mass_BP: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Pairs of a lighter patch and any heavier one, by Ward's criterion, as arguments for `ops.merge`.

    Each patch of the lighter half proposes to the heavier patch, of either half, that it costs least to merge with. The
    num_removed cheapest proposals are taken, and each goes to the cheapest of the heavier patches that stay. The order
    of the patches does not matter. Equal masses and costs go to the lower index.

    mass_BP: a positive weight of each patch.
    """
    P = mass_BP.shape[1]
    order_BP = portable.order(mass_BP)
    unit_BPD = ops.take(portable.unit(at_least_fp32(metric_BND[:, num_prefix:])), order_BP)
    mass_BP = mass_BP.gather(1, order_BP)
    costs = [_costs(unit_BPD, mass_BP, *strip) for strip in lighter_strips(P)]
    cheapest_BS = torch.cat([cost.amin(dim=2) for cost in costs], dim=1)
    first = P - cheapest_BS.shape[1]
    taken_BM = portable.ascending(portable.order(-cheapest_BS)[:, :num_removed] + first)
    goes_BP = torch.zeros_like(mass_BP, dtype=torch.bool).scatter(1, taken_BM, True)
    partners = [cost.masked_fill(goes_BP[:, None, : cost.shape[2]], torch.inf).argmin(dim=2) for cost in costs]
    partner_BM = torch.cat(partners, dim=1).gather(1, taken_BM - first)
    keep_BK = portable.flagged_last(goes_BP)[:, : P - num_removed]
    slot_BM = (torch.cumsum(~goes_BP, dim=1) - 1).gather(1, partner_BM)
    return order_BP.gather(1, keep_BK), order_BP.gather(1, taken_BM), slot_BM


def match_heavier_macs(num_patches: int, channels: int) -> int:
    """Multiply-adds of `match_heavier` for one image. channels: of the metric."""
    return sum((last - first) * last for first, last in lighter_strips(num_patches)) * channels


def lighter_strips(num_patches: int) -> tuple[tuple[int, int], ...]:
    """Ranks by mass, [first, last), of the patches that propose. A strip is compared with all ranks before its end."""
    ends = [num_patches - num_patches // 2, num_patches - num_patches // 4, num_patches]
    return tuple(strip for strip in pairwise(ends) if strip[0] < strip[1])


def _costs(unit_BPD: Tensor, mass_BP: Tensor, first: int, last: int) -> Tensor:
    """What it costs to merge patches of ranks [first, last) into heavier ones, of lower rank; infinite for others."""
    similarity_BSR = matmul_fp32(unit_BPD[:, first:last], unit_BPD[:, :last].transpose(1, 2))
    own_BS1, other_B1R = mass_BP[:, first:last].unsqueeze(2), mass_BP[:, :last].unsqueeze(1)
    cost_BSR = (1 - similarity_BSR) * (own_BS1 * other_B1R / (own_BS1 + other_B1R))
    rank_R = torch.arange(last, device=mass_BP.device)
    return cost_BSR.masked_fill(rank_R >= rank_R[first:last].unsqueeze(1), torch.inf)


def cosines(a_BMC: Tensor, b_BKC: Tensor) -> Tensor:
    """Cosine of each row of a and each of b, in at least fp32: [B, M, K]."""
    return matmul_fp32(portable.unit(at_least_fp32(a_BMC)), portable.unit(at_least_fp32(b_BKC)).transpose(1, 2))


def squared_distances(a_BMC: Tensor, b_BKC: Tensor) -> Tensor:
    """Squared Euclidean distances [B, M, K] through one matrix product, in at least fp32.

    Both sides are centred first, because a large common offset would cost precision.
    """
    centre_B1C = at_least_fp32(b_BKC).mean(dim=1, keepdim=True)
    a, b = at_least_fp32(a_BMC) - centre_B1C, at_least_fp32(b_BKC) - centre_B1C
    a_norm, b_norm = a.square().sum(dim=-1).unsqueeze(2), b.square().sum(dim=-1).unsqueeze(1)
    return (a_norm + b_norm - 2 * matmul_fp32(a, b.transpose(1, 2))).clamp(min=0)
