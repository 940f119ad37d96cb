"""Sum losses between two lines of the log. The sums stay on the device, so no update waits for it."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

Rate = float | tuple[float, ...] | None


class Window:
    """Losses of each update, their parts, images and time since the last line of the log."""

    def __init__(self) -> None:
        self.started = time.perf_counter()
        self.losses: list[Tensor] = []  # one per update, to find the first NaN or infinity
        self.parts: dict[str, Tensor] = {}
        self.images = 0
        self.lr = 0.0
        self.keep_rate: Rate = None
        self._update: Tensor | None = None

    def add(self, loss: Tensor, parts: dict[str, Tensor]) -> None:
        """Add the losses of a part of an update, weighted by its share."""
        self._update = loss if self._update is None else self._update + loss
        for name, part in parts.items():
            self.parts[name] = self.parts[name] + part if name in self.parts else part

    def end_update(self, lr: float, keep_rate: Rate, images: int) -> None:
        """Finish an update after all its parts were added."""
        assert self._update is not None
        self.losses.append(self._update)
        self._update = None
        self.images += images
        self.lr, self.keep_rate = lr, keep_rate

    def means(self, accelerator: Any) -> tuple[list[float], dict[str, float]]:
        """Return the loss of each update, and the mean of each part over the updates; all averaged over processes."""
        count = len(self.losses)
        sums = torch.stack([*self.losses, *(part / count for part in self.parts.values())]).float()
        means = accelerator.reduce(sums, "mean").tolist()
        return means[:count], dict(zip(self.parts, means[count:], strict=True))

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Exclude the time in the with block."""
        began = time.perf_counter()
        yield
        self.started += time.perf_counter() - began

    def images_per_s(self) -> float:
        """Training speed since the last line."""
        return self.images / max(1e-9, time.perf_counter() - self.started)


def first_unreal(losses: list[float]) -> int | None:
    """The index of the first NaN or infinity."""
    return next((i for i, loss in enumerate(losses) if not math.isfinite(loss)), None)
