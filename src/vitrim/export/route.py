"""What a route is: a way to write a model to a file that runs without it.

One route, one file, found by its name through `ROUTES`; nothing that a route needs is imported before it is asked for.
Shape letters: B batch, C channels, H height, W width, K classes.
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
    """One way to write a model and to run what was written."""

    name: ClassVar[str]  # "onnx"
    suffix: ClassVar[str]  # ".onnx": ending of the artefact's file name
    extra: ClassVar[str | None] = None  # "onnx" in pip install "vitrim[onnx]"; None: torch alone
    modules: ClassVar[tuple[str, ...]] = ()  # what the extra brings and the route imports
    fixed_batch: ClassVar[int | None] = None  # images that the artefact takes at once; None: any number
    opset: int | None = None  # of ONNX's operators, where the artefact is made of them

    def missing(self) -> str | None:
        """One line if something that the route needs is not installed, else None."""
        absent = [name for name in self.modules if importlib.util.find_spec(name) is None]
        if not absent:
            return None
        return f'the route {self.name} needs {" and ".join(absent)}: pip install "vitrim[{self.extra}]"'

    def refusal(self, method: Method | None) -> str | None:
        """Why the route cannot express a model with this method, in one line; None if it can."""
        if method is None or not getattr(method, "varies", False):
            return None
        return f"{method.name} decides for each image how many tokens stay, and a graph has fixed token counts"

    def at_opset(self, opset: int) -> Route:
        """The route with another of ONNX's sets of operators; ValueError where there is no choice."""
        raise ValueError(f"the opset is chosen of ONNX files alone, and the route {self.name} was given {opset!r}.")

    @abstractmethod
    def write(self, model: nn.Module, x_BCHW: Tensor, path: Path) -> None:
        """Write the model, in eval mode, on the CPU, fp32 and returning logits, to exactly that path.

        x_BCHW: two images (a trace with one would fix the batch at 1); the batch is left open where the route can.
        """

    @abstractmethod
    def load(self, path: Path) -> Runner:
        """What runs the artefact, from the file alone, on torch.get_num_threads() threads.

        Where the artefact has a fixed batch, the runner goes through larger ones in parts.
        """

    def files(self, path: Path) -> tuple[Path, ...]:
        """Every file that belongs to the artefact at that path."""
        return (path,)


def find_route(name: str) -> Route:
    """The route of that name; ValueError, naming what is there, for any other."""
    if name not in ROUTES:
        raise ValueError(f"no route is called {name!r}; there are {', '.join(ROUTES)}.")
    route: Route = importlib.import_module(f".{ROUTES[name]}", __package__).ROUTE
    return route
