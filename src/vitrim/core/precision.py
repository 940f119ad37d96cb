"""Scores, similarities and distances decide which tokens live: they are computed in at least fp32."""

from __future__ import annotations

import torch
from torch import Tensor


def widen(x: Tensor) -> Tensor:
    """x, in fp32 if it came in half precision."""
    return x.float() if x.element_size() == 2 else x


def product(a: Tensor, b: Tensor) -> Tensor:
    """The matrix product a @ b in at least fp32, under autocast too."""
    return unrounded(widen(a), widen(b))


def unrounded(a: Tensor, b: Tensor) -> Tensor:
    """The matrix product a @ b in the dtype of both: autocast would round them to half precision first."""
    if a.is_meta or not torch.is_autocast_enabled(a.device.type):  # the meta device knows no autocast
        return a @ b
    with torch.autocast(a.device.type, enabled=False):
        return a @ b


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def has_bf16_products() -> bool:
    """Whether this CPU multiplies bf16 matrices by AVX-512 instructions, and not by AMX, where nothing was measured."""
    return torch.cpu._is_avx512_bf16_supported() and not torch.cpu._is_amx_tile_supported()
