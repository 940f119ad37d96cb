"""ONNX for the operations of torch that its exporter does not know, or writes so that onnxruntime refuses them.

Imported only when an ONNX file is written: it needs onnxscript. Each function takes what the operation takes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from onnxscript import opset23

op: Any = opset23
SORTABLE = ("INT64", "INT32", "FLOAT", "DOUBLE")  # what onnxruntime's TopK takes
INT32 = 6  # ONNX's number for it


def sort_stable(x: Any, *, dim: int = -1, descending: bool = False, **_: Any) -> Any:
    """TopK breaks ties by the lower index, in either direction: that is a stable sort."""
    keys = x if x.dtype.name in SORTABLE else op.Cast(x, to=INT32)
    values, index = op.TopK(keys, op.Constant(value_ints=[x.shape[dim]]), axis=dim, largest=int(descending))
    return values, index


def attention(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    _dropout: float = 0.0,  # none at inference
    is_causal: bool = False,
    *,
    scale: float | None = None,
    **_: Any,
) -> Any:
    """One Attention operator; with a bias of one row for all queries, which onnxruntime's does not take, its parts."""
    scale = float(query.shape[-1]) ** -0.5 if scale is None else scale
    if attn_mask is None:
        return op.Attention(query, key, value, is_causal=int(is_causal), scale=scale)[0]
    if attn_mask.dtype.name != "FLOAT" or is_causal:
        raise NotImplementedError("attention with a mask of flags, or with two masks")
    logits = op.MatMul(op.Mul(query, op.Constant(value_float=scale)), op.Transpose(key, perm=[0, 1, 3, 2]))
    return op.MatMul(op.Softmax(op.Add(logits, attn_mask), axis=-1), value)


def distances(a: Any, b: Any, p: float = 2.0, _mode: Any = None) -> Any:
    """Sums of absolute differences of each row of a and each of b."""
    if p != 1:
        raise NotImplementedError("distances that are no sums of absolute differences")
    apart = op.Sub(op.Unsqueeze(a, op.Constant(value_ints=[-2])), op.Unsqueeze(b, op.Constant(value_ints=[-3])))
    return op.ReduceL1(apart, op.Constant(value_ints=[-1]), keepdims=0)


TRANSLATIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.ops.aten.sort.stable: sort_stable,
    torch.ops.aten.scaled_dot_product_attention.default: attention,
    torch.ops.aten.cdist.default: distances,
    torch.ops.aten._cdist_forward.default: distances,
}
