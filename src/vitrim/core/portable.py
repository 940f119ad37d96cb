"""Steps that use other operators in exported graphs, so that every runtime computes the same.

Runtimes differ on equal values in a top-k and on duplicate indices. So exported graphs rank by keys that are all
different, and sum by products with 0/1 matrices. Eager code takes a shorter way to the same order, and to the same
numbers up to rounding.
"""

from __future__ import annotations

import torch
from torch import Tensor


def writing() -> bool:
    """Whether torch.export, torch.onnx or torch.jit.trace is writing a graph."""
    return torch.compiler.is_exporting() or is_traced_by_jit()


def is_traced_by_jit() -> bool:
    """Whether torch.jit.trace is writing a graph. It may run later with batches of another size."""
    return torch._C._get_tracing_state() is not None  # as nn.Module asks; torch.jit.is_tracing takes longer


def order(x_BN: Tensor) -> Tensor:
    """Indices that sort each row, largest first. Ties go to the lower index.

    A graph gets two top-ks. The first leaves the order of equal values open; the second sorts run * N + index, where
    equal values share a run.
    """
    if not writing():
        return x_BN.argsort(dim=1, descending=True, stable=True)
    N = x_BN.shape[1]
    values_BN, index_BN = x_BN.topk(N, dim=1)
    starts_BN = torch.zeros_like(index_BN[:, :1])
    if N > 1:
        starts_BN = torch.cat([starts_BN, (values_BN[:, 1:] != values_BN[:, :-1]).to(torch.long)], dim=1)
    run_BN = starts_BN.cumsum(dim=1) * N
    return ascending(run_BN + index_BN) - run_BN


def ascending(index_BK: Tensor) -> Tensor:
    """Sort whole numbers that are all different."""
    if not writing():
        return index_BK.sort(dim=1).values
    return index_BK.topk(index_BK.shape[1], dim=1, largest=False).values


def flagged_last(flag_BN: Tensor) -> Tensor:
    """Indices of the values without the flag, then of those with it, each in increasing order: [B, N]."""
    if not writing():
        return flag_BN.to(torch.uint8).argsort(dim=1, stable=True)
    N = flag_BN.shape[1]
    index_N = torch.arange(N, device=flag_BN.device)
    return ascending(torch.where(flag_BN, index_N + N, index_N)) % N


def add_at(sum_BK: Tensor, slot_BM: Tensor, value_BM: Tensor) -> Tensor:
    """Add each value to the sum at its slot. Eager code overwrites the sums."""
    if not writing():
        return sum_BK.scatter_add_(1, slot_BM, value_BM)
    return sum_BK + _at_slot(sum_BK.shape[1], slot_BM, value_BM).sum(dim=2)


def max_at(most_BK: Tensor, slot_BM: Tensor, value_BM: Tensor) -> Tensor:
    """For each slot the largest of what it has and of the values that come to it; none is negative."""
    if not writing():
        return most_BK.scatter_reduce(1, slot_BM, value_BM, "amax")
    return torch.maximum(most_BK, _at_slot(most_BK.shape[1], slot_BM, value_BM).amax(dim=2))


def move_towards(x_BNC: Tensor, slot_BM: Tensor, rows_BMC: Tensor, share_BM: Tensor) -> Tensor:
    """x + sum of share * (row - x) over the rows of each slot: a weighted mean. Eager code overwrites x."""
    B, N, C = x_BNC.shape
    if not writing():
        index, flat_XC, rows_XC = flat_rows(slot_BM, N), x_BNC.view(B * N, C), rows_BMC.flatten(0, 1)
        away_XC = (rows_XC - flat_XC.index_select(0, index)) * share_BM.flatten().unsqueeze(1)
        flat_XC.index_add_(0, index, away_XC)
        return x_BNC
    share_BNM = _at_slot(N, slot_BM, share_BM)
    return x_BNC * (1 - share_BNM.sum(dim=2, keepdim=True)) + share_BNM @ rows_BMC


def add_rows(x_BKC: Tensor, slot_BM: Tensor, rows_BMC: Tensor) -> Tensor:
    """x plus the rows that come to each slot. Eager code overwrites x."""
    B, K, C = x_BKC.shape
    if not writing():
        x_BKC.view(B * K, C).index_add_(0, flat_rows(slot_BM, K), rows_BMC.flatten(0, 1))
        return x_BKC
    return x_BKC + _at_slot(K, slot_BM, torch.ones_like(rows_BMC[:, :, 0])) @ rows_BMC


def put_last(x: Tensor, last: Tensor) -> Tensor:
    """Replace the last rows of [B, N, ...] by [B, K, ...]. Eager code overwrites x."""
    kept = x.shape[1] - last.shape[1]
    if not writing():
        x[:, kept:] = last
        return x
    return torch.cat([x[:, :kept], last.to(x.dtype)], dim=1)


def norm(x: Tensor) -> Tensor:
    """Euclidean norms along the last axis: [..., 1]. Some runtimes read ONNX's own operator as a norm over all axes."""
    return x.square().sum(dim=-1, keepdim=True).sqrt() if writing() else x.norm(dim=-1, keepdim=True)


def unit(x: Tensor) -> Tensor:
    """Divide x by its norms along the last axis. Zeros stay zeros."""
    return x / norm(x).clamp_min(torch.finfo(x.dtype).tiny)


def taxicab(a_BMC: Tensor, b_BKC: Tensor) -> Tensor:
    """L1 distances between the rows of a and those of b: [B, M, K]."""
    if not writing():
        return torch.cdist(a_BMC, b_BKC, p=1)
    return (a_BMC.unsqueeze(2) - b_BKC.unsqueeze(1)).abs().sum(dim=-1)


def flat_rows(index_BK: Tensor, N: int) -> Tensor:
    """Row indices within each image as row indices within the batch: [B * K]. Each image has N rows."""
    if index_BK.shape[0] == 1 and not is_traced_by_jit():
        return index_BK.flatten()
    return (index_BK + torch.arange(index_BK.shape[0], device=index_BK.device).unsqueeze(1) * N).flatten()


def _at_slot(num_slots: int, slot_BM: Tensor, value_BM: Tensor) -> Tensor:
    """A matrix with each value in the row of its slot and zeros elsewhere: [B, num_slots, M]."""
    slot_K1 = torch.arange(num_slots, device=slot_BM.device).unsqueeze(1)
    return torch.where(slot_BM.unsqueeze(1) == slot_K1, value_BM.unsqueeze(1), 0.0)
