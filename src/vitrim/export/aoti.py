"""The route aoti: AOTInductor compiles the model to a library of machine code, in a .pt2 package that torch loads.

https://docs.pytorch.org/docs/stable/user_guide/torch_compiler/torch.compiler_aot_inductor.html. The package holds the
weights and needs torch, but no code of the model. It is compiled for the processor that it is written on, and for the
version of torch.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .route import Route, Runner
from .torch_export import exported_program

# Loops ask at run time how many threads there are; compiled in would be how many this process happens to have.
SETTINGS: dict[str, Any] = {"cpp.dynamic_threads": True}


class AOTInductor(Route):
    """Compiled ahead of time, one package for every batch size."""

    name = "aoti"
    suffix = ".pt2"

    def missing(self) -> str | None:
        from torch._inductor.cpp_builder import get_cpp_compiler
        from torch._inductor.exc import InvalidCxxCompiler

        try:
            get_cpp_compiler()
        except (InvalidCxxCompiler, RuntimeError):
            return (
                "the route aoti needs a C++ compiler, and none was found: install g++, or name one in the environment "
                "variable CXX"
            )
        return None

    def write(self, model: nn.Module, x_BCHW: Tensor, path: Path) -> None:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # of deprecations inside torch: nothing a user can act on
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
