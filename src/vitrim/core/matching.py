"""ToMe's bipartite matching, and distances between tokens. Several papers share them."""

from __future__ import annotations

import torch
from torch import Tensor

from . import portable
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
