"""Rotary positions: which row of a library's table of rotations each token is turned by.

Where a model has rotary positions, its library hands each block a table with one row for each patch of the grid, and
queries and keys are turned by their row before they meet (RoFormer, Su et al., 2021, https://arxiv.org/abs/2104.09864).
The table stays the library's: learned ones, one for each block or head, and augmented ones work like plain ones.
`Tokens` carry the number of each token's row, and here the rows are looked up.

The rule: a token that stays keeps its own position, whatever merges into it; a token that stands for no place, as
EViT's fused one, is not turned at all, like the prefix. Rejected: the mean of the coordinates, weighted by size, which
only tables that are made of coordinates have; the mean of the rows, which is no rotation.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

NO_POSITION = -1  # the position of a token that is not rotated


class Rotation(NamedTuple):
    """A library's table. P patches of the grid, R numbers in a row: sines and cosines, half of them each."""

    table: Tensor  # [P, R], [H, P, R] by head, or by image [B, 1 or H, P, R]
    cos_first: bool = False  # whether the cosines are the first half

    def rows(self, position_BK: Tensor | None) -> Tensor:
        """Rotary rows for these positions, broadcastable to [B, H, K, D]; without positions, the table itself."""
        if position_BK is None:
            return self.table
        *lead, P, R = self.table.shape
        table = torch.cat([self.table, self._still().expand(*lead, 1, R)], dim=-2)
        row_BK = torch.where(position_BK == NO_POSITION, P, position_BK)
        if len(lead) == 2:
            if lead[0] != len(position_BK):
                raise ValueError(f"rotations came for {lead[0]} images, and tokens of {len(position_BK)}.")
            return table.gather(2, row_BK[:, None, :, None].expand(-1, table.shape[1], -1, R))
        rows = table.index_select(-2, row_BK.flatten()).view(*lead, *row_BK.shape, R)
        return rows.transpose(0, 1) if lead else rows.unsqueeze(1)

    def _still(self) -> Tensor:
        """The row that turns nothing: sine 0, cosine 1."""
        R = self.table.shape[-1]
        place_R = torch.arange(R, device=self.table.device)
        is_cos_R = place_R < R // 2 if self.cos_first else place_R >= R // 2
        return is_cos_R.to(self.table.dtype)
