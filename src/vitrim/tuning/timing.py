"""How a model will be run, and forward times of models that are run so. They may take images of different sizes."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..export.export_model import write_and_load
from ..export.route import ROUTES, Route, find_route
from ..heads import Logits
from ..kinds import is_whole
from ..measure.benchmark import ANY_NUMBER, DTYPES, moved, wait_for
from ..measure.forwards import dtype_of, evaluating
from ..measure.model_input import input_size_of
from ..measure.noise import random_images
from ..measure.turns import Turns, take_turns
from ..temporary import temporary_folder

ROUNDS = 25
EAGER = "eager"
CPU = torch.device("cpu")
Call = Callable[[], object]


@dataclass(frozen=True)
class Way:
    """The way in which a model will be run. Times are measured in this way.

    route: "eager", or a format of `vitrim export`, whose runtime is then timed, on the CPU and in fp32.
    """

    device: torch.device = CPU
    batch_size: int = 1
    dtype: str = "fp32"
    compile: bool = False
    route: str = EAGER

    def __post_init__(self) -> None:
        if not is_whole(self.batch_size, 1):
            raise ValueError(f"the batch size is a whole number of at least 1, not {self.batch_size!r}.")
        if self.dtype not in DTYPES:
            raise ValueError(f"the dtype is one of {', '.join(DTYPES)}, not {self.dtype!r}.")
        if self.route == EAGER:
            return
        if self.route not in ROUTES:
            raise ValueError(f"the route is one of {', '.join((EAGER, *ROUTES))}, not {self.route!r}.")
        if self.compile or self.dtype != "fp32" or self.device.type != "cpu":
            raise ValueError(
                f"the route {self.route} runs in fp32 on the CPU and without torch.compile: leave out --dtype, "
                "--device and --compile, or the route."
            )
        if (absent := find_route(self.route).missing()) is not None:
            raise ValueError(f"{absent}.")

    def __str__(self) -> str:
        words = (self.route, self.dtype, "compiled" if self.compile else "", f"on {self.device}")
        return ", ".join(filter(None, words))

    @property
    def artefact(self) -> Route | None:
        """The route that writes a file; None if the model runs in torch."""
        return None if self.route == EAGER else find_route(self.route)

    @property
    def by_block(self) -> bool:
        """Whether a block runs alone as it does in the model: neither compiled nor written to a file."""
        return not self.compile and self.route == EAGER

    def moved(self, model: nn.Module) -> nn.Module:
        """The model on this device and in this dtype; a copy if it is not."""
        return moved(model, self.device, DTYPES[self.dtype])


@dataclass
class Clock:
    """Times models in a way of running, the unreduced one first. It is compiled or written once."""

    way: Way
    unreduced: nn.Module
    _call: Call | None = field(default=None, repr=False)

    def turns(self, models: Sequence[nn.Module]) -> Turns:
        """Seconds of a batch in each round: of the unreduced model, "0", and of these, "1" and so on."""
        with ExitStack() as stack, torch.inference_mode():
            if self.way.compile:  # by default torch runs models after the first few uncompiled
                stack.enter_context(importlib.import_module("torch._dynamo.config").patch(ANY_NUMBER))
            for model in (self.unreduced, *models):
                stack.enter_context(evaluating(model))
            if self._call is None:
                self._call = self._called(self.unreduced)
            calls = {"0": self._call} | {str(i): self._called(model) for i, model in enumerate(models, 1)}
            return take_turns(calls, ROUNDS, warmup=2, untimed=1, wait=partial(wait_for, self.way.device))

    def _called(self, model: nn.Module) -> Call:
        """A call of the model on a batch."""
        x_BCHW = random_images(max(self.way.batch_size, 2), input_size_of(model))  # a trace needs two images
        if self.way.artefact is not None:
            return partial(_runner(self.way.artefact, model, x_BCHW), x_BCHW[: self.way.batch_size].contiguous())
        forward: Any = torch.compile(model) if self.way.compile else model
        return partial(forward, x_BCHW[: self.way.batch_size].to(self.way.device, dtype_of(model, x_BCHW)))


def _runner(route: Route, model: nn.Module, x_BCHW: Tensor) -> Callable[[Tensor], Tensor]:
    """The model in its own runtime, from a temporary file."""
    with temporary_folder() as folder:
        return write_and_load(route, Logits(model), x_BCHW, folder / f"model{route.suffix}")
