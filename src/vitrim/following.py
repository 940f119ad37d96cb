"""Follow one forward of a model, reduced or not, in this thread only."""

from __future__ import annotations

import math
import sys
from contextlib import ExitStack
from functools import partial
from threading import get_ident
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from .core.listening import Follower, Recorder, Snapshot
from .core.schedule import is_whole
from .core.tokens import Tokens

CONVOLUTIONS = (torch.ops.aten.convolution.default, torch.ops.aten.conv2d.default)


def run_uncompiled(cleanup: ExitStack) -> None:
    """Run compiled models uncompiled until cleanup."""
    if "torch._dynamo" in sys.modules:  # importing it takes seconds, and without it nothing is compiled
        cleanup.enter_context(torch.compiler.set_stance("force_eager"))


def check_grid(grid: object) -> tuple[int, int]:
    """Rows and columns of the patches. ValueError unless they are two whole numbers of at least 1."""
    sides = tuple(grid) if isinstance(grid, (tuple, list)) else ()
    if len(sides) != 2 or not all(is_whole(side) and side >= 1 for side in sides):
        raise ValueError(f"a grid must be two whole numbers, (rows, columns), not {grid!r:.80}.")
    return sides


class ConvolvedSizes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The output sizes of all convolutions in this thread, in order. One of them made the patches."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.sizes: list[tuple[int, int]] = []

    def grid_of(self, num_patches: int) -> tuple[int, int] | None:
        """The last size with this many positions."""
        return next((size for size in reversed(self.sizes) if math.prod(size) == num_patches), None)

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        if function in CONVOLUTIONS and out.dim() == 4:
            self.sizes.append((out.shape[-2], out.shape[-1]))
        return out


class Following(Recorder):
    """Records the input of the first block and the output of every block of a reduced model."""

    def __init__(self, leaving: list[Snapshot], entering: list[Tensor]):
        super().__init__(leaving, every_block=True)
        self.entering = entering

    def begin(self, x_BNC: Tensor) -> Follower:
        self.entering.append(x_BNC)
        return self


def follow_blocks(
    blocks: nn.Module, leaving: list[Snapshot], entering: list[Tensor], num_prefix: int, cleanup: ExitStack
) -> None:
    """Record the same of a model that is not reduced, in this thread."""
    thread = get_ident()

    def leave(layer: int, _: nn.Module, __: Any, x_BNC: Tensor) -> None:
        if get_ident() == thread:
            leaving.append(Snapshot(layer, Tokens(x_BNC, num_prefix)))

    def enter(_: nn.Module, args: tuple[Tensor, ...]) -> None:
        if get_ident() == thread:
            entering.append(args[0])

    cleanup.callback(next(blocks.children()).register_forward_pre_hook(enter).remove)
    for layer, block in enumerate(blocks.children()):
        cleanup.callback(block.register_forward_hook(partial(leave, layer)).remove)
