"""Pairs of patches, between even and odd places as in ToMe, among the live ones of each image."""

from __future__ import annotations

import torch
from torch import Tensor

from . import packing, portable
from .attention import Attention
from .precision import matmul_fp32
from .tokens import Tokens


def partners(tokens: Tokens, attention: Attention, live_BP: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine of each patch and the live one at an odd place that it resembles most, and which that is.

    Both [B, N - prefix], padded if packed. The cosine is -inf at odd places and where nothing is live.
    """
    key_BND = attention.mean_key()
    if tokens.lengths is not None:
        key_BND = packing.pad(key_BND[0], tokens.lengths)
    unit_BPD, first = portable.unit(key_BND)[:, tokens.num_prefix :], tokens.num_prefix % 2
    best_BP = unit_BPD.new_full(live_BP.shape, -torch.inf)
    target_BP = torch.zeros_like(live_BP, dtype=torch.long)
    if live_BP.shape[1] < 2:
        return best_BP, target_BP
    similarity_BAB = matmul_fp32(unit_BPD[:, first::2], unit_BPD[:, 1 - first :: 2].transpose(1, 2))
    similarity_BAB = similarity_BAB.masked_fill(~live_BP[:, None, 1 - first :: 2], -torch.inf)
    best_BA, partner_BA = similarity_BAB.max(dim=-1)
    best_BP[:, first::2] = best_BA.masked_fill(~live_BP[:, first::2], -torch.inf)
    target_BP[:, first::2] = partner_BA * 2 + 1 - first
    return best_BP, target_BP


def even_places_first(live_BP: Tensor, num_prefix: int) -> Tensor:
    """The order of ToMe, by which the next block pairs others: patches at even places, then those at odd ones."""
    P = live_BP.shape[1]
    index_P = torch.arange(P, device=live_BP.device)
    group_P = (index_P + num_prefix) % 2
    return torch.where(live_BP, group_P * P + index_P, 2 * P + index_P).argsort(dim=1)


def partners_among(tokens: Tokens, attention: Attention, from_BP: Tensor, to_BP: Tensor) -> tuple[Tensor, Tensor]:
    """The same as `partners` for the patches of from_BP, each with the one of to_BP that it resembles most."""
    key_BND = attention.mean_key()
    if tokens.lengths is not None:
        key_BND = packing.pad(key_BND[0], tokens.lengths)
    unit_BPD = portable.unit(key_BND)[:, tokens.num_prefix :]
    if unit_BPD.shape[1] == 0:
        return unit_BPD.new_full(from_BP.shape, -torch.inf), torch.zeros_like(from_BP, dtype=torch.long)
    similarity_BPP = matmul_fp32(unit_BPD, unit_BPD.transpose(1, 2)).masked_fill(~to_BP[:, None], -torch.inf)
    best_BP, target_BP = similarity_BPP.max(dim=-1)
    return best_BP.masked_fill(~from_BP, -torch.inf), target_BP
