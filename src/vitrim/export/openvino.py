"""The route openvino: OpenVINO's intermediate representation, an .xml file with its weights in a .bin file beside it.

https://docs.openvino.ai. Converted from ONNX, which gives a smaller graph than converting from torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..temporary import temporary_folder
from .onnx import ROUTE as ONNX
from .route import Route, Runner


class OpenVino(Route):
    """Runs in fp32. By default OpenVINO uses bf16 if the processor supports it, which differs far more from eager."""

    name = "openvino"
    suffix = ".xml"
    extra = "openvino"
    modules = (*ONNX.modules, "openvino")

    def write(self, model: nn.Module, x_BCHW: Tensor, path: Path) -> None:
        openvino = _library()
        with temporary_folder(path.parent) as folder:
            file = folder / "model.onnx"
            ONNX.write(model, x_BCHW, file)
            openvino.save_model(_read(openvino, file), path, compress_to_fp16=False)

    def load(self, path: Path) -> Runner:
        openvino = _library()
        settings = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "INFERENCE_PRECISION_HINT": "f32"}
        request = openvino.Core().compile_model(path, "CPU", settings).create_infer_request()

        def run(x_BCHW: Tensor) -> Tensor:
            return torch.from_numpy(request.infer([x_BCHW.numpy()])[0].copy())

        return run

    def files(self, path: Path) -> tuple[Path, ...]:
        return path, path.with_suffix(".bin")


def _read(openvino: Any, file: Path) -> Any:
    """Read the graph of an ONNX file; ValueError, naming them, for operators that OpenVINO cannot read."""
    try:
        return openvino.Core().read_model(file)
    except RuntimeError as error:
        failed = [line for line in str(error).splitlines() if "Conversion is failed for" in line]
        if not failed:
            raise
        operators = ", ".join(line.rpartition(":")[2].strip() for line in failed)
        raise ValueError(
            f"OpenVINO {openvino.__version__.partition('-')[0]} cannot read the ONNX operators {operators}: a newer "
            "version may."
        ) from None


def _library() -> Any:
    import openvino  # has hardly any types

    return openvino


ROUTE = OpenVino()
