"""The route onnx: an ONNX file for onnxruntime and other runtimes.

https://onnx.ai, https://onnxruntime.ai. Written through torch.export. The opset is the version of ONNX's operators:
more runtimes read a lower one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..core.schedule import is_whole
from ..quiet import quiet
from .route import Route, Runner
from .torch_export import exported_program

OPSET, HIGHEST = 18, 23  # the opsets that torch writes without conversion
INPUT, OUTPUT = "images", "logits"
MAX_BYTES = 2**31 - 2**20  # the limit of a protobuf file; larger weights go into a file of their own


class Onnx(Route):
    """One file for all batch sizes; above 2 GB, the weights are in a second file."""

    name = "onnx"
    suffix = ".onnx"
    extra = "onnx"
    modules = ("onnx", "onnxscript", "onnxruntime")

    def __init__(self, opset: int = OPSET):
        self.opset: int = opset

    def at_opset(self, opset: int) -> Onnx:
        if not is_whole(opset) or not OPSET <= opset <= HIGHEST:
            raise ValueError(f"opset must be a whole number from {OPSET} to {HIGHEST}, not {opset!r}.")
        return type(self)(opset)

    def write(self, model: nn.Module, x_BCHW: Tensor, path: Path) -> None:
        from .onnx_operators import translations

        external = sum(weight.nbytes for weight in model.state_dict().values()) > MAX_BYTES
        with quiet():
            program: Any = torch.onnx.export(
                exported_program(model, x_BCHW),
                opset_version=self.opset,
                input_names=[INPUT],
                output_names=[OUTPUT],
                custom_translation_table=translations(self.opset),
                external_data=external,
                dynamo=True,
            )
        for node in program.model.graph:
            node.metadata_props.clear()  # they hold source lines with paths on this machine
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


ROUTE = Onnx()
