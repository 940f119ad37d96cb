"""The route torch-export: a .pt2 program that torch.export.load runs without the model's code.

https://docs.pytorch.org/docs/stable/export.html. Other routes start from the same program.
"""

from __future__ import annotations

import io
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from ..quiet import quiet
from .route import Route, Runner


class TorchExport(Route):
    """A graph of torch operations with the weights."""

    name = "torch-export"
    suffix = ".pt2"

    def write(self, model: nn.Module, x_BCHW: Tensor, path: Path) -> None:
        content = io.BytesIO()  # writing to a full disk, torch would end the process
        torch.export.save(exported_program(model, x_BCHW), content)
        path.write_bytes(content.getbuffer())

    def load(self, path: Path) -> Runner:
        return torch.export.load(path).module()


def exported_program(model: nn.Module, x_BCHW: Tensor) -> ExportedProgram:
    """Export the model's graph with an open batch size. The other sizes are those of x_BCHW."""
    with quiet(), torch.no_grad():
        return torch.export.export(model, (x_BCHW,), dynamic_shapes=({0: Dim("batch", min=1)},), strict=False)


ROUTE = TorchExport()
