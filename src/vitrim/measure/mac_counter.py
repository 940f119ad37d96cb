"""torch's counter of operations, made to see all attention kernels and int8 products; multiply-adds are half."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Size
from torch.utils.flop_counter import FlopCounterMode

# Attention kernels that FlopCounterMode passes over, the first of them up to torch 2.14: DeiT-S would count 4.24 G.
UNCOUNTED_ATTENTION = (
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_attention_math_for_mps",
    "_scaled_dot_product_fused_attention_overrideable",
)


@contextmanager
def counting() -> Iterator[FlopCounterMode]:
    """Counts what runs inside; without the fused kernel of nn.MultiheadAttention, which hides its products."""
    counter = FlopCounterMode(display=False, custom_mapping=_formulas())
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        # With gradients on: its module hooks fail on a parameter passed to a module without (attention pools).
        with torch.enable_grad(), counter:
            yield counter
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _formulas() -> dict[Any, Any]:
    def formula(q: Size, k: Size, v: Size, *_: object, **__: object) -> int:
        B, H, queries, D = q
        return 2 * B * H * queries * k[2] * (D + v[3])

    ops = (getattr(torch.ops.aten, name, None) for name in UNCOUNTED_ATTENTION)
    formulas: dict[Any, Any] = {op: formula for op in ops if op is not None}

    def integers(a: Size, b: Size, *_: object, **__: object) -> int:
        return 2 * a[0] * a[1] * b[1]

    return formulas | {torch.ops.aten._int_mm: integers}
