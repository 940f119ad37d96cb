"""Ways to form groups among M tokens of each image: similar pairs, density peaks, k-means, consecutive runs.

Each returns `Groups`: a centre per group (a token that stays), and every other token with the group it joins. The
number of groups is fixed, so shapes are static.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from . import portable
from .precision import product, widen


class Groups(NamedTuple):
    """G centres and the M - G other tokens; indices among the tokens given."""

    centre: Tensor  # [B, G]
    member: Tensor  # [B, M - G]
    slot: Tensor  # [B, M - G]: position in `centre` of the group that each member joins


def match_similar(x_BMC: Tensor, num_merged: int) -> Groups:
    """The num_merged tokens most similar (by cosine) to an earlier token join it; the earliest token always stays.

    A token may join one that itself joins a third; all of them are then one group.
    """
    B, M, _ = x_BMC.shape
    x = portable.unit(widen(x_BMC))
    token_M = torch.arange(M, device=x.device)
    later = token_M >= token_M.unsqueeze(1)  # or the token itself
    similarity_BM, partner_BM = product(x, x.transpose(1, 2)).masked_fill(later, -torch.inf).max(dim=-1)
    joins_BM = portable.order(similarity_BM)[:, :num_merged]
    parent_BM = token_M.repeat(B, 1)
    parent_BM = parent_BM.scatter(1, joins_BM, partner_BM.gather(1, joins_BM))
    for _ in range(num_merged.bit_length()):  # each step doubles how far a chain has been followed
        parent_BM = parent_BM.gather(1, parent_BM)
    return _groups(_marked(joins_BM, M), parent_BM, M - num_merged)


def density_peaks(x_BMC: Tensor, num_groups: int, neighbours: int) -> Groups:
    """Density-peak clustering: centres are dense and far from anything denser (BAT, eq. 6 and 7).

    Every other token joins the nearest centre of higher density than its own. Equal densities rank by index.
    """
    _, M, C = x_BMC.shape
    square_BMM = squared_distances(x_BMC, x_BMC) / C
    token_M = torch.arange(M, device=x_BMC.device)
    square_BMM = square_BMM.masked_fill(token_M == token_M.unsqueeze(1), 0.0)
    nearest = square_BMM.topk(min(neighbours, M), dim=-1, largest=False).values
    rank_BM = _places(portable.order(-nearest.mean(dim=-1)), M)
    density_BM = (-nearest.mean(dim=-1)).exp()
    denser_BMM = rank_BM.unsqueeze(1) < rank_BM.unsqueeze(2)  # [b, i, j]: token j is denser than token i
    distance_BMM = square_BMM.sqrt()
    to_denser_BM = distance_BMM.masked_fill(~denser_BMM, torch.inf).amin(dim=-1)
    to_denser_BM = torch.where(rank_BM == 0, distance_BMM.flatten(1).amax(dim=1, keepdim=True), to_denser_BM)
    peak_BM = portable.order(density_BM * to_denser_BM)
    centre_BM = _marked(peak_BM[:, :num_groups], M)
    # The densest token must be a centre: it has nothing denser to join.
    centre_BM = _force(centre_BM, rank_BM == 0, peak_BM[:, num_groups - 1 : num_groups])
    eligible = centre_BM.unsqueeze(1) & denser_BMM
    parent_BM = distance_BMM.masked_fill(~eligible, torch.inf).argmin(dim=-1)
    return _groups(~centre_BM, parent_BM, num_groups)


def kmeans(x_BMC: Tensor, num_groups: int, iterations: int) -> Groups:
    """K-means from evenly spaced tokens, which stay in their own group so that none is ever empty."""
    M, x_BMC = x_BMC.shape[1], widen(x_BMC)
    token_M = torch.arange(M, device=x_BMC.device)
    own_M = (token_M * num_groups + M - 1) // M  # the group that a token is the seed of, if it is one
    is_seed_M = own_M * M // num_groups == token_M
    centre_BGC = x_BMC.index_select(1, torch.arange(num_groups, device=x_BMC.device) * M // num_groups)
    for step in range(iterations):
        nearest_BM = torch.where(is_seed_M, own_M, squared_distances(x_BMC, centre_BGC).argmin(dim=-1))
        if step + 1 < iterations:
            member_BGM = torch.nn.functional.one_hot(nearest_BM, num_groups).transpose(1, 2).to(x_BMC.dtype)
            centre_BGC = product(member_BGM, x_BMC) / member_BGM.sum(dim=-1, keepdim=True)
    return _groups(~is_seed_M.expand_as(nearest_BM), nearest_BM * M // num_groups, num_groups)


def consecutive(num_images: int, num_tokens: int, num_groups: int, device: torch.device) -> Groups:
    """Runs of neighbours in the given order, as equal in length as can be; the first of a run is its centre."""
    group_M = torch.arange(num_tokens, device=device) * num_groups // num_tokens
    first_M = (group_M * num_tokens + num_groups - 1) // num_groups
    joined = first_M != torch.arange(num_tokens, device=device)
    return _groups(joined.expand(num_images, -1), first_M.expand(num_images, -1), num_groups)


def squared_distances(a_BMC: Tensor, b_BKC: Tensor) -> Tensor:
    """Squared Euclidean distances [B, M, K] through one matrix product, in at least fp32.

    Both sides are centred first: what all tokens share would cancel out of the result, and take its digits along.
    """
    centre_B1C = widen(b_BKC).mean(dim=1, keepdim=True)
    a, b = widen(a_BMC) - centre_B1C, widen(b_BKC) - centre_B1C
    a_norm, b_norm = a.square().sum(dim=-1).unsqueeze(2), b.square().sum(dim=-1).unsqueeze(1)
    return (a_norm + b_norm - 2 * product(a, b.transpose(1, 2))).clamp(min=0)


def _force(centre_BM: Tensor, wanted_BM: Tensor, last_B1: Tensor) -> Tensor:
    """The centres with the wanted token among them, in exchange for the last one where it was missing."""
    missing_B1 = ~(centre_BM & wanted_BM).any(dim=1, keepdim=True)
    out = centre_BM.scatter(1, last_B1, centre_BM.gather(1, last_B1) & ~missing_B1)
    return out | wanted_BM


def _groups(joined_BM: Tensor, parent_BM: Tensor, num_groups: int) -> Groups:
    """Groups from the flag of every token that joins another, and the centre that it joins."""
    order_BM = portable.flagged_last(joined_BM)
    centre_BG, member_BX = order_BM[:, :num_groups], order_BM[:, num_groups:]
    place_BM = _places(centre_BG, joined_BM.shape[1])
    return Groups(centre_BG, member_BX, place_BM.gather(1, parent_BM.gather(1, member_BX)))


def _places(index_BK: Tensor, num_tokens: int) -> Tensor:
    """Where each token stands in a list of different ones, 0 if it is not in there: [B, num_tokens]."""
    B, K = index_BK.shape
    place_BK = torch.arange(K, device=index_BK.device).expand(B, -1)
    return index_BK.new_zeros(B, num_tokens).scatter(1, index_BK, place_BK)


def _marked(index_BK: Tensor, num_tokens: int) -> Tensor:
    """Which tokens are in the list: [B, num_tokens], bool."""
    return index_BK.new_zeros(index_BK.shape[0], num_tokens).scatter(1, index_BK, torch.ones_like(index_BK)) > 0
