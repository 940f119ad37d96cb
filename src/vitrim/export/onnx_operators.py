"""Translations to ONNX of torch operations that its exporter writes in a longer form than runtimes need.

This module needs onnxscript, so it is imported only when an ONNX file is written. Each function takes the arguments of
its torch operation.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from onnxscript import opset18, opset23

op: Any = opset18
ATTENTION, GELU = 23, 20  # the first opsets that have these operators

Translation = Callable[..., Any]


def translations(opset: int) -> dict[Callable[..., Any], Translation]:
    """The operations that are translated here at this opset."""
    written: dict[Callable[..., Any], Translation] = {
        torch.ops.aten.scaled_dot_product_attention.default: attention if opset >= ATTENTION else attention_in_parts
    }
    return written if opset >= GELU else written | {torch.ops.aten.gelu.default: gelu}


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
    """Write one Attention operator; with a mask, separate ones, as onnxruntime takes no mask of a single row."""
    if attn_mask is not None:
        return attention_in_parts(query, key, value, attn_mask, is_causal=is_causal, scale=scale)
    scale = float(query.shape[-1]) ** -0.5 if scale is None else scale
    return opset23.Attention(query, key, value, is_causal=int(is_causal), scale=scale)[0]


def attention_in_parts(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    _dropout: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    **_: Any,
) -> Any:
    """Write two products and a softmax, in the form that onnxruntime and OpenVINO fuse."""
    if is_causal or (attn_mask is not None and attn_mask.dtype.name != "FLOAT"):
        raise NotImplementedError("attention with a boolean or causal mask")
    scale = float(query.shape[-1]) ** -0.5 if scale is None else scale
    logits = op.MatMul(op.Mul(query, op.Constant(value_float=scale)), op.Transpose(key, perm=[0, 1, 3, 2]))
    if attn_mask is not None:
        logits = op.Add(logits, attn_mask)
    return op.MatMul(op.Softmax(logits, axis=-1), value)


def gelu(x: Any, *, approximate: str = "none") -> Any:
    """Write GELU in the form that onnxruntime and OpenVINO fuse into one operator."""
    half, one = op.Constant(value_float=0.5), op.Constant(value_float=1.0)
    if approximate == "none":
        shifted = op.Add(op.Erf(op.Div(x, op.Constant(value_float=math.sqrt(2)))), one)
        return op.Mul(op.Mul(x, shifted), half)
    cubed = op.Mul(op.Constant(value_float=0.044715), op.Pow(x, op.Constant(value_float=3.0)))
    inner = op.Mul(op.Constant(value_float=math.sqrt(2 / math.pi)), op.Add(x, cubed))
    return op.Mul(op.Mul(half, x), op.Add(one, op.Tanh(inner)))
