"""Precision of scores, similarities and distances: they choose tokens, so they are computed in at least fp32."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def at_least_fp32(x: Tensor) -> Tensor:
    """Cast half precision to fp32; leave other dtypes."""
    return x.float() if x.element_size() == 2 else x


def matmul_fp32(a: Tensor, b: Tensor) -> Tensor:
    """a @ b in at least fp32, also under autocast."""
    return matmul_without_autocast(at_least_fp32(a), at_least_fp32(b))


def matmul_without_autocast(a: Tensor, b: Tensor) -> Tensor:
    """a @ b in the dtype of both. Autocast would round them to half precision first."""
    multiply = torch.bmm if a.dim() == b.dim() == 3 else torch.matmul  # which first looks for shapes to broadcast
    if a.is_meta or not torch.is_autocast_enabled(a.device.type):  # the meta device has no autocast
        return multiply(a, b)
    with torch.autocast(a.device.type, enabled=False):
        return multiply(a, b)


def without_autocast(compute: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """compute(x), where modules compute in the dtype of their weights also under autocast."""
    if x.is_meta or not torch.is_autocast_enabled(x.device.type):
        return compute(x)
    with torch.autocast(x.device.type, enabled=False):
        return compute(x)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def has_bf16_matmul() -> bool:
    """Whether this CPU multiplies bf16 by AVX-512. CPUs with AMX count as no, because they were not measured."""
    return torch.cpu._is_avx512_bf16_supported() and not torch.cpu._is_amx_tile_supported()
