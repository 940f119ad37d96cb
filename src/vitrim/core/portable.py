"""Steps that go by other operators where a graph is written, so that every runtime computes the same of it.

Runtimes differ in what they make of equal values in a top-k and of an index that occurs twice.
So a written graph ranks by keys that are all different, and adds up by products with 0/1 matrices. Eager takes the
shorter way to the same order, and to the same numbers up to rounding.
"""

from __future__ import annotations

import torch
from torch import Tensor


def writing() -> bool:
    """Whether torch.export, torch.onnx or torch.jit.trace is writing a graph."""
    return torch.compiler.is_exporting() or is_traced_by_jit()


def is_traced_by_jit() -> bool:
    """Whether torch.jit.trace is writing a graph. It may run later with batches of another size."""
    return bool(torch.jit.is_tracing())  # type: ignore[no-untyped-call]


def order(x_BN: Tensor) -> Tensor:
    """Indices that sort each row, the largest first; ties go to the lower index.

    Written as two top-ks. The first leaves the order of equal values open; the second sorts run * N + index, where
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
    """Whole numbers, all different, in order."""
    if not writing():
        return index_BK.sort(dim=1).values
    return index_BK.topk(index_BK.shape[1], dim=1, largest=False).values


def flagged_last(flag_BN: Tensor) -> Tensor:
    """Indices of the values without the flag, then of those with it, each in order: [B, N]."""
    if not writing():
        return flag_BN.to(torch.uint8).argsort(dim=1, stable=True)
    N = flag_BN.shape[1]
    index_N = torch.arange(N, device=flag_BN.device)
    return ascending(torch.where(flag_BN, index_N + N, index_N)) % N


def add_at(sum_BK: Tensor, slot_BM: Tensor, value_BM: Tensor) -> Tensor:
    """The sums with each value added at its slot; in place where that is faster, so the sums are the caller's own."""
    if not writing():
        return sum_BK.scatter_add_(1, slot_BM, value_BM)
    return sum_BK + _at_slot(sum_BK.shape[1], slot_BM, value_BM).sum(dim=2)


def move_towards(x_BNC: Tensor, slot_BM: Tensor, rows_BMC: Tensor, share_BM: Tensor) -> Tensor:
    """x + sum of share * (row - x) over the rows of each slot, the weighted mean; in place as in `add_at`.

    Eager touches the M rows alone.
    """
    B, N, C = x_BNC.shape
    if not writing():
        index, flat_XC, rows_XC = flat_rows(slot_BM, N), x_BNC.view(B * N, C), rows_BMC.flatten(0, 1)
        away_XC = (rows_XC - flat_XC.index_select(0, index)) * share_BM.flatten().unsqueeze(1)
        return flat_XC.index_add_(0, index, away_XC).view(B, N, C)
    share_BNM = _at_slot(N, slot_BM, share_BM)
    return x_BNC * (1 - share_BNM.sum(dim=2, keepdim=True)) + share_BNM @ rows_BMC


def put_last(x: Tensor, last: Tensor) -> Tensor:
    """[B, N, ...] with its last rows replaced by [B, K, ...]; in place as in `add_at`."""
    kept = x.shape[1] - last.shape[1]
    if not writing():
        x[:, kept:] = last
        return x
    return torch.cat([x[:, :kept], last.to(x.dtype)], dim=1)


def norm(x: Tensor) -> Tensor:
    """Euclidean norms of the last axis: [..., 1]. Some runtimes take ONNX's own operator for a norm over all axes."""
    return x.square().sum(dim=-1, keepdim=True).sqrt() if writing() else x.norm(dim=-1, keepdim=True)


def unit(x: Tensor) -> Tensor:
    """x divided by its norms along the last axis; zeros stay zeros, which resemble nothing and are no NaN."""
    return x / norm(x).clamp(min=torch.finfo(x.dtype).tiny)


def taxicab(a_BMC: Tensor, b_BKC: Tensor) -> Tensor:
    """Sums of absolute differences of each row of a and each of b: [B, M, K]."""
    if not writing():
        return torch.cdist(a_BMC, b_BKC, p=1)
    return (a_BMC.unsqueeze(2) - b_BKC.unsqueeze(1)).abs().sum(dim=-1)


def flat_rows(index_BK: Tensor, N: int) -> Tensor:
    """Where the rows of each image are among those of all, N an image: [B * K]."""
    if index_BK.shape[0] == 1 and not is_traced_by_jit():
        return index_BK.flatten()
    return (index_BK + torch.arange(index_BK.shape[0], device=index_BK.device).unsqueeze(1) * N).flatten()


def _at_slot(num_slots: int, slot_BM: Tensor, value_BM: Tensor) -> Tensor:
    """Each value in the row of its slot, zeros elsewhere: [B, num_slots, M]."""
    slot_K1 = torch.arange(num_slots, device=slot_BM.device).unsqueeze(1)
    return torch.where(slot_BM.unsqueeze(1) == slot_K1, value_BM.unsqueeze(1), 0.0)
