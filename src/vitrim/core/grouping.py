"""Groups among M tokens of each image, and density-peak clustering, which several papers share.

`Groups` has a centre per group, which is a token that stays, and the group that every other token joins. The number of
groups is fixed, so shapes are static.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from . import portable
from .matching import squared_distances


class Groups(NamedTuple):
    """Indices of G centres and of the M - G other tokens."""

    centre: Tensor  # [B, G]
    member: Tensor  # [B, M - G]
    slot: Tensor  # [B, M - G]: position in `centre` of the group that each member joins


def density_peaks(x_BMC: Tensor, num_groups: int, neighbours: int, *, to_denser: bool = True) -> Groups:
    """Density-peak clustering (BAT, eq. 6 and 7): centres are dense, and far from anything denser.

    Every other token joins the nearest centre, of those that are denser than itself if `to_denser`. Equal densities
    rank by index.
    """
    _, M, C = x_BMC.shape
    square_BMM = squared_distances(x_BMC, x_BMC) / C
    token_M = torch.arange(M, device=x_BMC.device)
    square_BMM = square_BMM.masked_fill(token_M == token_M.unsqueeze(1), 0.0)
    nearest = square_BMM.topk(min(neighbours, M), dim=-1, largest=False).values
    rank_BM = _positions(portable.order(-nearest.mean(dim=-1)), M)
    density_BM = (-nearest.mean(dim=-1)).exp()
    denser_BMM = rank_BM.unsqueeze(1) < rank_BM.unsqueeze(2)  # [b, i, j]: token j is denser than token i
    distance_BMM = square_BMM.sqrt()
    to_denser_BM = distance_BMM.masked_fill(~denser_BMM, torch.inf).amin(dim=-1)
    to_denser_BM = torch.where(rank_BM == 0, distance_BMM.flatten(1).amax(dim=1, keepdim=True), to_denser_BM)
    peak_BM = portable.order(density_BM * to_denser_BM)
    centre_BM = marked(peak_BM[:, :num_groups], M)
    # The densest token must be a centre, because no denser one is there to join.
    centre_BM = _force(centre_BM, rank_BM == 0, peak_BM[:, num_groups - 1 : num_groups])
    eligible = centre_BM.unsqueeze(1) & denser_BMM if to_denser else centre_BM.unsqueeze(1)
    parent_BM = distance_BMM.masked_fill(~eligible, torch.inf).argmin(dim=-1)
    return groups_from(~centre_BM, parent_BM, num_groups)


def _force(centre_BM: Tensor, wanted_BM: Tensor, last_B1: Tensor) -> Tensor:
    """Make the wanted token a centre. If it was not one, the last centre makes room."""
    missing_B1 = ~(centre_BM & wanted_BM).any(dim=1, keepdim=True)
    out = centre_BM.scatter(1, last_B1, centre_BM.gather(1, last_B1) & ~missing_B1)
    return out | wanted_BM


def groups_from(joined_BM: Tensor, parent_BM: Tensor, num_groups: int) -> Groups:
    """Groups from a flag for every token that joins another, and the centre that it joins."""
    order_BM = portable.flagged_last(joined_BM)
    centre_BG, member_BX = order_BM[:, :num_groups], order_BM[:, num_groups:]
    position_BM = _positions(centre_BG, joined_BM.shape[1])
    return Groups(centre_BG, member_BX, position_BM.gather(1, parent_BM.gather(1, member_BX)))


def _positions(index_BK: Tensor, num_tokens: int) -> Tensor:
    """The position of each token in a list of tokens, 0 if it is not there: [B, num_tokens]."""
    B, K = index_BK.shape
    position_BK = torch.arange(K, device=index_BK.device).expand(B, -1)
    return index_BK.new_zeros(B, num_tokens).scatter(1, index_BK, position_BK)


def marked(index_BK: Tensor, num_tokens: int) -> Tensor:
    """Which tokens are in the list: [B, num_tokens], bool."""
    return index_BK.new_zeros(index_BK.shape[0], num_tokens).scatter(1, index_BK, torch.ones_like(index_BK)) > 0
