"""Packing: images with different numbers of tokens in one batch, their rows one after another, without padding.

`lengths` has the tokens of each image, prefix included. They are Python integers, because later shapes depend on them.
T is their sum and N the largest.
"""

from __future__ import annotations

from itertools import accumulate

import torch
from torch import Tensor

Lengths = tuple[int, ...]


def starts(lengths: Lengths, device: torch.device) -> Tensor:
    """The first row of each image: [B]."""
    return torch.tensor([0, *accumulate(lengths[:-1])], device=device)


def live(lengths: Lengths, device: torch.device) -> Tensor:
    """Which rows are not padding once every image is padded to the longest: [B, N], bool."""
    return torch.arange(max(lengths), device=device) < torch.tensor(lengths, device=device).unsqueeze(1)


def pad(rows: Tensor, lengths: Lengths, fill: float = 0.0) -> Tensor:
    """Pad every image to the longest: [T, ...] -> [B, N, ...]."""
    B, N = len(lengths), max(lengths)
    padded = rows.new_full((B * N, *rows.shape[1:]), fill)
    return padded.index_copy(0, _padded_rows(lengths, rows.device), rows).view(B, N, *rows.shape[1:])


def pack(padded: Tensor, lengths: Lengths) -> Tensor:
    """The inverse of `pad`: [B, N, ...] -> [T, ...]."""
    return padded.flatten(0, 1).index_select(0, _padded_rows(lengths, padded.device))


def _padded_rows(lengths: Lengths, device: torch.device) -> Tensor:
    """The index of each row among the B * N padded ones: [T]."""
    N, T = max(lengths), sum(lengths)
    gap_B = torch.arange(len(lengths), device=device) * N - starts(lengths, device)
    return torch.arange(T, device=device) + gap_B.repeat_interleave(torch.tensor(lengths, device=device), output_size=T)
