"""The base class of export routes: a way to write a model to a file and to run that file.

Each route is one module, listed in `ROUTES` and imported only when it is used.
"""

from __future__ import annotations

import importlib
import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, Literal, get_args

from torch import Tensor, nn

from ..core.method import Method

Runner = Callable[[Tensor], Tensor]  # images [B, C, H, W] on the CPU -> logits [B, K]

RouteName = Literal["torch-export", "onnx", "openvino", "aoti", "executorch"]
# name -> module in this package that defines ROUTE
ROUTES: dict[str, str] = {name: name.replace("-", "_") for name in get_args(RouteName)}


class Route(ABC):
    """One way to write a model and to run the artefact."""

    name: ClassVar[str]  # "onnx"
    suffix: ClassVar[str]  # ".onnx": suffix of the artefact's file name
    extra: ClassVar[str | None] = None  # "onnx" in pip install "vitrim[onnx]"; None: only torch is needed
    modules: ClassVar[tuple[str, ...]] = ()  # the packages of the extra
    fixed_batch: ClassVar[int | None] = None  # the batch size that the artefact takes; None: any
    opset: int | None = None  # the version of ONNX's operators, for ONNX files

    def missing(self) -> str | None:
        """One line on what the route needs and is not installed; None if nothing is missing."""
        absent = [name for name in self.modules if importlib.util.find_spec(name) is None]
        if not absent:
            return None
        return f'the route {self.name} needs {" and ".join(absent)}: pip install "vitrim[{self.extra}]"'

    def refusal(self, method: Method | None) -> str | None:
        """Why the route cannot write a model with this method, in one line; None if it can."""
        if method is None or not getattr(method, "varies", False):
            return None
        return f"{method.name} decides for each image how many tokens stay, and a graph has fixed token counts"

    def at_opset(self, opset: int) -> Route:
        """The route at another opset; ValueError if it does not write ONNX files."""
        raise ValueError(f"opset {opset!r} applies to ONNX files only, and the route is {self.name}: leave it out.")

    @abstractmethod
    def write(self, model: nn.Module, x_BCHW: Tensor, path: Path) -> None:
        """Write the model, which is in eval mode, on the CPU and in fp32, and returns logits, to this path.

        x_BCHW: two images, since a trace with one would fix the batch size, which stays open if the route allows it.
        """

    @abstractmethod
    def load(self, path: Path) -> Runner:
        """Return a function that runs the artefact, from the file alone, on torch.get_num_threads() threads.

        If the artefact has a fixed batch size, the function splits larger batches.
        """

    def files(self, path: Path) -> tuple[Path, ...]:
        """All files of the artefact at this path."""
        return (path,)


def find_route(name: str) -> Route:
    """Return the route of this name; ValueError, with the known names, for any other."""
    if name not in ROUTES:
        raise ValueError(f"no route is called {name!r}; there are {', '.join(ROUTES)}.")
    route: Route = importlib.import_module(f".{ROUTES[name]}", __package__).ROUTE
    return route
