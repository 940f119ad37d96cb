"""Images with different numbers of tokens in one batch, without padding: their rows stand one after another.

`lengths` are the tokens of each image, prefix included, in the images' order. They are Python integers, because the
shapes of all that follows depend on them. T is their sum, N the largest.
"""

from __future__ import annotations

from itertools import accumulate

import torch
from torch import Tensor

Lengths = tuple[int, ...]


def starts(lengths: Lengths, device: torch.device) -> Tensor:
    """The row at which each image begins: [B]."""
    return torch.tensor([0, *accumulate(lengths[:-1])], device=device)


def live(lengths: Lengths, device: torch.device) -> Tensor:
    """Which places hold a token when every image is padded to the longest: [B, N], bool."""
    return torch.arange(max(lengths), device=device) < torch.tensor(lengths, device=device).unsqueeze(1)


def pad(rows: Tensor, lengths: Lengths, fill: float = 0.0) -> Tensor:
    """Rows of all images to rows per image: [T, ...] -> [B, N, ...]."""
    B, N = len(lengths), max(lengths)
    padded = rows.new_full((B * N, *rows.shape[1:]), fill)
    return padded.index_copy(0, _places(lengths, rows.device), rows).view(B, N, *rows.shape[1:])


def pack(padded: Tensor, lengths: Lengths) -> Tensor:
    """The inverse of `pad`: [B, N, ...] -> [T, ...]."""
    return padded.flatten(0, 1).index_select(0, _places(lengths, padded.device))


def _places(lengths: Lengths, device: torch.device) -> Tensor:
    """For each row its place among B * N padded ones: [T]."""
    N, T = max(lengths), sum(lengths)
    gap_B = torch.arange(len(lengths), device=device) * N - starts(lengths, device)
    return torch.arange(T, device=device) + gap_B.repeat_interleave(torch.tensor(lengths, device=device), output_size=T)
