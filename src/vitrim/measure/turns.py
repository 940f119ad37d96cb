"""Time callables in turns, and compare them by ratios.

On a shared or throttling machine, times drift by more than the differences of interest. So the callables take turns
within each round, and ratios are taken within a round. The order also matters by several percent, so it changes: each
round begins with another callable, and every second lap is reversed.
"""

from __future__ import annotations

import math
import statistics
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

MIN_SECONDS = 0.02  # per sample: a short one would measure the clock and the scheduler
P10, P90 = "_p10", "_p90"
NOISY = 0.3  # of a ratio: the range from its 10th to its 90th percentile, beyond which it says little


class Spread(float):
    """A ratio over all rounds: its median, as a float, with the 10th and 90th percentile as attributes."""

    __slots__ = ("high", "low")

    low: float  # 10th percentile over the rounds
    high: float  # 90th percentile

    def __new__(cls, low: float, median: float, high: float) -> Spread:
        spread = super().__new__(cls, median)
        spread.low, spread.high = low, high
        return spread

    def __getnewargs__(self) -> tuple[float, float, float]:  # type: ignore[override]  # for copies and pickles
        return self.low, self.median, self.high

    def __repr__(self) -> str:
        return f"Spread(low={self.low!r}, median={self.median!r}, high={self.high!r})"

    @property
    def median(self) -> float:
        """The median as a plain float."""
        return float(self)

    @property
    def range(self) -> str:
        """The 10th to 90th percentile in words: '0.95 to 1.07'."""
        return f"{self.low:.2f} to {self.high:.2f}"

    @property
    def relative_range(self) -> float:
        """The range from the 10th to the 90th percentile, as a share of the median."""
        return (self.high - self.low) / self.median

    @property
    def noisy(self) -> bool:
        """Whether the rounds differ so much that the median says little: the machine was busy."""
        return self.relative_range > NOISY

    def times(self, factor: float) -> Spread:
        """Scale the ratio by a positive factor."""
        return Spread(self.low * factor, self.median * factor, self.high * factor)

    @classmethod
    def of(cls, ratios: Sequence[float]) -> Spread:
        """Compute the percentiles of ratios, interpolated linearly between neighbours."""
        shares = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
        return cls(*torch.tensor(ratios, dtype=torch.float64).quantile(shares).tolist())


class HasSpeedup:
    """Keeps the old names of the percentiles of `speedup`."""

    speedup: Spread

    @property
    def speedup_low(self) -> float:
        """Deprecated: use `speedup.low`."""
        warnings.warn("speedup_low is now speedup.low.", DeprecationWarning, stacklevel=2)
        return self.speedup.low

    @property
    def speedup_high(self) -> float:
        """Deprecated: use `speedup.high`."""
        warnings.warn("speedup_high is now speedup.high.", DeprecationWarning, stacklevel=2)
        return self.speedup.high


@dataclass(frozen=True)
class Turns:
    """The times of the callables: seconds per call, in each round."""

    seconds: Mapping[str, tuple[float, ...]]

    def median(self, name: str) -> float:
        """Median seconds per call."""
        return statistics.median(self.seconds[name])

    def ratio(self, name: str, over: str) -> Spread:
        """Speed of `name` relative to `over`, round by round."""
        return speed_ratio(self.seconds[name], self.seconds[over])


def speed_ratio(seconds: Sequence[float], of_other: Sequence[float]) -> Spread:
    """Speed relative to another callable, round by round."""
    return Spread.of([other / own for own, other in zip(seconds, of_other, strict=True)])


def take_turns(
    calls: Mapping[str, Callable[[], object]],
    rounds: int,
    *,
    warmup: int = 1,
    untimed: int = 0,
    wait: Callable[[], object] = lambda: None,
    progress: Callable[[int, int], None] | None = None,
) -> Turns:
    """Time callables in interleaved rounds.

    Args:
        calls: Callables by name.
        rounds: Samples of each callable. A sample is as many calls in a row as take 20 ms.
        warmup: Untimed calls of each callable before the first round.
        untimed: Untimed calls right before each sample. Models with weights of their own push each other's out of the
            cache; with one such call each finds its weights there, as a model does that runs alone.
        wait: Called before and after each sample, to synchronise an asynchronous device.
        progress: Called after each round with rounds done and their total.
    """
    for call in calls.values():
        for _ in range(warmup):
            call()
    counts = {name: max(1, math.ceil(MIN_SECONDS / _sample(call, 1, wait))) for name, call in calls.items()}
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for done in range(rounds):
        for name in order_of_turns(list(calls), done):
            for _ in range(untimed):
                calls[name]()
            seconds[name].append(_sample(calls[name], counts[name], wait))
        if progress is not None:
            progress(done + 1, rounds)
    return Turns({name: tuple(each) for name, each in seconds.items()})


def order_of_turns(names: Sequence[str], done: int) -> list[str]:
    """Return the order of the callables after `done` rounds."""
    start, backwards = done % len(names), done // len(names) % 2
    order = [*names[start:], *names[:start]]
    return order[::-1] if backwards else order


def _sample(call: Callable[[], object], count: int, wait: Callable[[], object]) -> float:
    """Mean seconds per call, over `count` calls in a row."""
    wait()
    start = time.perf_counter()
    for _ in range(count):
        call()
    wait()
    return (time.perf_counter() - start) / count


def column_names(name: str) -> tuple[str, str, str]:
    """Columns of a ratio in a table: the median, then the percentiles."""
    return name, f"{name}{P10}", f"{name}{P90}"


def columns(values: Mapping[str, Any]) -> dict[str, Any]:
    """Turn values into a row of a table. A Spread takes three columns."""
    row: dict[str, Any] = {}
    for name, value in values.items():
        own = (value.median, value.low, value.high) if isinstance(value, Spread) else (value,)
        row |= dict(zip(column_names(name), own, strict=False))
    return row
