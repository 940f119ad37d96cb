"""BAT's other ways to group M tokens of each image, beside density peaks (`core.grouping`)."""

from __future__ import annotations

import torch
from torch import Tensor

from ...core import portable
from ...core.grouping import Groups, groups_from, marked
from ...core.matching import squared_distances
from ...core.precision import at_least_fp32, matmul_fp32


def match_similar(x_BMC: Tensor, num_merged: int) -> Groups:
    """The num_merged tokens with the highest cosine similarity to an earlier token join it.

    The first token always stays. If a token joins one that itself joins a third, all three are one group.
    """
    B, M, _ = x_BMC.shape
    x = portable.unit(at_least_fp32(x_BMC))
    token_M = torch.arange(M, device=x.device)
    later = token_M >= token_M.unsqueeze(1)  # or the token itself
    similarity_BM, partner_BM = matmul_fp32(x, x.transpose(1, 2)).masked_fill(later, -torch.inf).max(dim=-1)
    joins_BM = portable.order(similarity_BM)[:, :num_merged]
    parent_BM = token_M.repeat(B, 1)
    parent_BM = parent_BM.scatter(1, joins_BM, partner_BM.gather(1, joins_BM))
    for _ in range(num_merged.bit_length()):  # each step doubles the part of a chain that was followed
        parent_BM = parent_BM.gather(1, parent_BM)
    return groups_from(marked(joins_BM, M), parent_BM, M - num_merged)


def kmeans(x_BMC: Tensor, num_groups: int, iterations: int) -> Groups:
    """K-means from evenly spaced seeds. A seed stays in its own group, so no group is ever empty."""
    M, x_BMC = x_BMC.shape[1], at_least_fp32(x_BMC)
    token_M = torch.arange(M, device=x_BMC.device)
    own_M = (token_M * num_groups + M - 1) // M  # the group of a token if it is a seed
    is_seed_M = own_M * M // num_groups == token_M
    centre_BGC = x_BMC.index_select(1, torch.arange(num_groups, device=x_BMC.device) * M // num_groups)
    for step in range(iterations):
        nearest_BM = torch.where(is_seed_M, own_M, squared_distances(x_BMC, centre_BGC).argmin(dim=-1))
        if step + 1 < iterations:
            member_BGM = torch.nn.functional.one_hot(nearest_BM, num_groups).transpose(1, 2).to(x_BMC.dtype)
            centre_BGC = matmul_fp32(member_BGM, x_BMC) / member_BGM.sum(dim=-1, keepdim=True)
    return groups_from(~is_seed_M.expand_as(nearest_BM), nearest_BM * M // num_groups, num_groups)


def consecutive(num_images: int, num_tokens: int, num_groups: int, device: torch.device) -> Groups:
    """Runs of neighbours in the given order, as equal in length as possible. The first of a run is its centre."""
    group_M = torch.arange(num_tokens, device=device) * num_groups // num_tokens
    first_M = (group_M * num_tokens + num_groups - 1) // num_groups
    joined = first_M != torch.arange(num_tokens, device=device)
    return groups_from(joined.expand(num_images, -1), first_M.expand(num_images, -1), num_groups)
