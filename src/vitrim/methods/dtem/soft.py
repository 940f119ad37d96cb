"""DTEM's training: soft grouping and soft merging, which have a gradient by the metric."""

from __future__ import annotations

import torch
from torch import Tensor

from ...core import portable
from ...core.masking import live_patches, sort_patches, with_patches
from ...core.matching import cosines
from ...core.tokens import Tokens

SCORE_TEMPERATURE = DRAW_TEMPERATURE = 0.1
PARTNERS = 3  # edges of each patch, to those that it resembles most


def soft_groups(similarity_BAM: Tensor, draws: int, temperature: float = SCORE_TEMPERATURE) -> Tensor:
    """How much of each patch of A goes to each one of B when `draws` edges are taken softly: [B, A, M], at most 1."""
    score_BAK, partner_BAK = similarity_BAM.topk(min(PARTNERS, similarity_BAM.shape[2]), dim=-1)
    score_BAK = score_BAK / temperature
    given_BAK = torch.zeros_like(score_BAK)
    least = torch.finfo(torch.float32).eps
    for _ in range(draws):
        drawn_BAK = (score_BAK / DRAW_TEMPERATURE).flatten(1).softmax(dim=1).view_as(score_BAK)
        given_BAK = given_BAK + drawn_BAK
        score_BAK = score_BAK + (1 - drawn_BAK.sum(dim=2, keepdim=True)).clamp(min=least).log()
    given_BAK = given_BAK / given_BAK.detach().sum(dim=2, keepdim=True).clamp(min=1.0)
    return torch.zeros_like(similarity_BAM).scatter(2, partner_BAK, given_BAK)


def soft_step(tokens: Tokens, metric_BPD: Tensor, active: int, removed: int) -> Tokens:
    """One block: of the first `active` patches, those at even places give to those at odd ones; sizes are weights.

    metric_BPD: of all patches. The patches that gave most away come last, in front of those of earlier blocks.
    """
    prefix, first = tokens.num_prefix, tokens.num_prefix % 2
    place_P = torch.arange(metric_BPD.shape[1], device=metric_BPD.device)
    a_A, b_M = place_P[first:active:2], place_P[1 - first : active : 2]
    share_BAM = soft_groups(cosines(metric_BPD[:, a_A], metric_BPD[:, b_M]), removed)
    size_BP, x_BPC = live_patches(tokens), tokens.x_BNC[:, prefix:]
    flow_BMA = (share_BAM * size_BP[:, a_A].unsqueeze(2)).transpose(1, 2)
    size_BM = size_BP[:, b_M] + flow_BMA.sum(dim=2)
    own_BMC = size_BP[:, b_M].unsqueeze(2) * x_BPC[:, b_M]
    x_BMC = (own_BMC + flow_BMA @ x_BPC[:, a_A].to(flow_BMA.dtype)) / size_BM.unsqueeze(2)
    left_BA = 1 - share_BAM.sum(dim=2)
    size_BA = size_BP[:, a_A] * (left_BA + (left_BA.clamp(0, 1) - left_BA).detach())
    x_BNC = tokens.x_BNC.index_copy(1, b_M + prefix, x_BMC.to(x_BPC.dtype))
    live_BP = size_BP.index_copy(1, a_A, size_BA).index_copy(1, b_M, size_BM)
    tokens = with_patches(tokens.with_features(x_BNC), live_BP)
    order_BA = portable.order(left_BA.detach())
    kept = a_A.shape[0] - removed
    first_BA = order_BA[:, :kept].sort(dim=1).values if prefix else order_BA[:, :kept]
    B, behind_P = x_BPC.shape[0], place_P[active:]
    order_BP = [a_A[first_BA], b_M.expand(B, -1), a_A[order_BA[:, kept:]], behind_P.expand(B, -1)]
    return sort_patches(tokens, torch.cat(order_BP, dim=1))
