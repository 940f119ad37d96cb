"""The route onnx: an ONNX file, run by onnxruntime and by whatever else reads the format.

https://onnx.ai, https://onnxruntime.ai. Written through torch.export. Opset 23 is the first with an Attention operator,
which onnxruntime runs as one kernel.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .route import Route, Runner
from .torch_export import exported_program

OPSET = 23
INPUT, OUTPUT = "images", "logits"
SORTABLE, INT32 = ("INT64", "INT32", "FLOAT", "DOUBLE"), 6  # what onnxruntime's TopK takes; ONNX's number for int32
MAX_BYTES = 2**31 - 2**20  # of one protobuf file; weights beyond it go beside it


class Onnx(Route):
    """One file with weights, or with a second one of weights beside it from 2 GB on."""

    name = "onnx"
    suffix = ".onnx"
    extra = "onnx"
    modules = ("onnx", "onnxscript", "onnxruntime")

    def write(self, model: nn.Module, x_BCHW: Tensor, path: Path) -> None:
        external = sum(weight.nbytes for weight in model.state_dict().values()) > MAX_BYTES
        with _quiet():
            program: Any = torch.onnx.export(
                exported_program(model, x_BCHW),
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=[OUTPUT],
                custom_translation_table=_translations(),
                external_data=external,
                dynamo=True,
            )
        for node in program.model.graph:
            node.metadata_props.clear()  # lines of source code, with paths on this machine
        program.save(path, external_data=external)

    def load(self, path: Path) -> Runner:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

        def run(x_BCHW: Tensor) -> Tensor:
            return torch.from_numpy(session.run(None, {INPUT: x_BCHW.numpy()})[0])

        return run

    def files(self, path: Path) -> tuple[Path, ...]:
        return path, path.with_name(path.name + ".data")


def _translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """ONNX for the operations of torch that its exporter does not know."""
    from onnxscript import opset23

    op: Any = opset23

    def sort_stable(x: Any, *, dim: int = -1, descending: bool = False, **_: Any) -> Any:
        # TopK breaks ties by the lower index, in either direction: that is a stable sort.
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
        scale = float(query.shape[-1]) ** -0.5 if scale is None else scale
        if attn_mask is None:
            return op.Attention(query, key, value, is_causal=int(is_causal), scale=scale)[0]
        if attn_mask.dtype.name != "FLOAT" or is_causal:
            raise NotImplementedError("attention with a mask of flags, or with two masks")
        # onnxruntime's Attention wants a mask for every query, and ours is one row for all of them.
        logits = op.MatMul(op.Mul(query, op.Constant(value_float=scale)), op.Transpose(key, perm=[0, 1, 3, 2]))
        return op.MatMul(op.Softmax(op.Add(logits, attn_mask), axis=-1), value)

    def distances(a: Any, b: Any, p: float = 2.0, _mode: Any = None) -> Any:
        if p != 1:
            raise NotImplementedError("distances that are no sums of absolute differences")
        apart = op.Sub(op.Unsqueeze(a, op.Constant(value_ints=[-2])), op.Unsqueeze(b, op.Constant(value_ints=[-3])))
        return op.ReduceL1(apart, op.Constant(value_ints=[-1]), keepdims=0)

    aten = torch.ops.aten
    return {
        aten.sort.stable: sort_stable,
        aten.scaled_dot_product_attention.default: attention,
        aten.cdist.default: distances,
        aten._cdist_forward.default: distances,
    }


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporter prints, logs and warns of on its way."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    before = [logger.level for logger in loggers]
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, before, strict=True):
                logger.setLevel(level)


ROUTE = Onnx()
