"""Rotary positions (RoFormer, Su et al., 2021, https://arxiv.org/abs/2104.09864): the row of each token in a table.

A library with rotary positions hands each block a table with one row per patch of the grid, and rotates queries and
keys by their rows. vitrim takes rows from that table, so learned and augmented tables work like plain ones.

The rule: a token that stays keeps its own position, whatever merges into it. A token without a position, such as
EViT's fused one, is not rotated, like the prefix. docs/design.md says what was rejected.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from . import packing
from .tokens import Tokens

NO_POSITION = -1  # the position of a token that is not rotated


def positions(tokens: Tokens) -> Tensor | None:
    """Rotary positions of the last K tokens, [B, K]; of all tokens if packed, [1, T]."""
    if tokens.position_BK is None or tokens.lengths is None:
        return tokens.position_BK
    prefix = tokens.position_BK.new_full((len(tokens.lengths), tokens.num_prefix), NO_POSITION)
    return packing.pack(torch.cat([prefix, tokens.position_BK], dim=1), tokens.lengths).unsqueeze(0)


class Rotation(NamedTuple):
    """A library's table: P patches of the grid, R numbers per row, one half sines and one half cosines."""

    table: Tensor  # [P, R]; [H, P, R] by head; [B, 1 or H, P, R] by image
    cos_first: bool = False  # whether the cosines are the first half

    def rows(self, position_BK: Tensor | None) -> Tensor:
        """Rotary rows for these positions, [B, 1 or H, K, R]; without positions, the table itself."""
        if position_BK is None:
            return self.table
        *lead, P, R = self.table.shape
        table = torch.cat([self.table, self._identity_row().expand(*lead, 1, R)], dim=-2)
        row_BK = torch.where(position_BK == NO_POSITION, P, position_BK)
        if len(lead) == 2:
            if lead[0] != len(position_BK):
                raise ValueError(f"the rotary table is for {lead[0]} images, and {len(position_BK)} came.")
            return table.gather(2, row_BK[:, None, :, None].expand(-1, table.shape[1], -1, R))
        rows = table.index_select(-2, row_BK.flatten()).view(*lead, *row_BK.shape, R)
        return rows.transpose(0, 1) if lead else rows.unsqueeze(1)

    def _identity_row(self) -> Tensor:
        """The row that rotates nothing: sine 0, cosine 1."""
        R = self.table.shape[-1]
        index_R = torch.arange(R, device=self.table.device)
        is_cos_R = index_R < R // 2 if self.cos_first else index_R >= R // 2
        return is_cos_R.to(self.table.dtype)
