"""The route aoti: AOTInductor compiles the model to machine code, in a .pt2 package that torch loads.

https://docs.pytorch.org/docs/stable/user_guide/torch_compiler/torch.compiler_aot_inductor.html. The package holds the
weights. It needs torch, but not the code of the model. It is compiled for the processor and the version of torch that
it is written with.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..quiet import quiet
from .route import Route, Runner
from .torch_export import exported_program

# Read the number of threads at run time. By default that of the exporting process is compiled in.
SETTINGS: dict[str, Any] = {"cpp.dynamic_threads": True}


class AOTInductor(Route):
    """Ahead-of-time compilation: one package for all batch sizes."""

    name = "aoti"
    suffix = ".pt2"

    def missing(self) -> str | None:
        from torch._inductor.cpp_builder import get_cpp_compiler
        from torch._inductor.exc import InvalidCxxCompiler

        try:
            get_cpp_compiler()
        except (InvalidCxxCompiler, RuntimeError):
            return (
                "the route aoti needs a C++ compiler: install g++, or set the environment variable CXX to another "
                "compiler"
            )
        return None

    def write(self, model: nn.Module, x_BCHW: Tensor, path: Path) -> None:
        with quiet(), torch.no_grad():
            program = exported_program(model, x_BCHW)
            torch._inductor.aoti_compile_and_package(program, package_path=str(path), inductor_configs=SETTINGS)

    def load(self, path: Path) -> Runner:
        compiled = torch._inductor.aoti_load_package(str(path))

        def run(x_BCHW: Tensor) -> Tensor:
            with torch.no_grad():
                logits_BK: Tensor = compiled(x_BCHW)
            return logits_BK

        return run


ROUTE = AOTInductor()
