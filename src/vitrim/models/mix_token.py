"""MixToken: CutMix on the token grid (Jiang et al., NeurIPS 2021, section 3.2), see `vitrim.models.lvvit`.

A box is a tensor [row start, column start, row end, column end], so that one compiled forward serves all boxes. The
partner of an image has the same index in the reversed batch.
"""

from __future__ import annotations

import torch
from torch import Tensor

Grid = tuple[int, int]  # rows and columns of patches


def draw_box(grid: Grid, generator: torch.Generator | None = None) -> Tensor:
    """A random CutMix box on the token grid, with uniform share and centre (the paper's Beta(1, 1))."""
    lam, row, column = torch.rand(3, dtype=torch.float64, generator=generator).unbind()
    return box_around(lam, row * grid[0], column * grid[1], grid)


def box_around(lam: Tensor, row: Tensor, column: Tensor, grid: Grid) -> Tensor:
    """The box that leaves a share `lam` of the grid, cut off at the borders."""
    size = torch.tensor(grid)
    half = (size * (1 - lam).sqrt()).long() // 2
    centre = torch.stack([row, column]).long()
    return torch.cat([(centre - half).clamp(min=0), torch.minimum(centre + half, size)])


def box_mask(box: Tensor, grid: Grid) -> Tensor:
    """Which patches lie inside the box, row by row: [P]."""
    rows, columns = (torch.arange(size, device=box.device) for size in grid)
    row_inside, column_inside = (rows >= box[0]) & (rows < box[2]), (columns >= box[1]) & (columns < box[3])
    return (row_inside.unsqueeze(1) & column_inside).flatten()


def swap_box(x_BPC: Tensor, mask_P: Tensor) -> Tensor:
    """Give each image the tokens of its partner inside the mask. A second call gives x back."""
    return torch.where(mask_P.unsqueeze(1), x_BPC.flip(0), x_BPC)
