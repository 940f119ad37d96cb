"""Callables that take turns, and the ratios of their times. Knows nothing of models.

On a shared or throttling machine times drift by more than the differences of interest. So the callables take turns
within each round, and a ratio is taken within a round. The order changes from round to round: each round begins with
another callable, and every second lap goes backwards, since who runs after whom makes several per cent.
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

MIN_SECONDS = 0.02  # of one sample: a single short call would measure the clock and the scheduler
P10, P90 = "_p10", "_p90"


class Spread(float):
    """A ratio taken in every round: a number, the median, that knows its 10th and 90th percentile too."""

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
        """The plain number."""
        return float(self)

    @property
    def range(self) -> str:
        """From the 10th to the 90th percentile, for a table: '0.95 to 1.07'."""
        return f"{self.low:.2f} to {self.high:.2f}"

    def times(self, factor: float) -> Spread:
        """The same ratio in another unit; factor is positive."""
        return Spread(self.low * factor, self.median * factor, self.high * factor)

    @classmethod
    def of(cls, ratios: Sequence[float]) -> Spread:
        """The one definition: percentiles are interpolated between the two ratios nearest to them."""
        shares = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
        return cls(*torch.tensor(ratios, dtype=torch.float64).quantile(shares).tolist())


class HasSpeedup:
    """What has a `speedup`; its percentiles were fields of their own once, and their names still work."""

    speedup: Spread

    @property
    def speedup_low(self) -> float:
        """Now `speedup.low`."""
        warnings.warn("speedup_low is now speedup.low.", DeprecationWarning, stacklevel=2)
        return self.speedup.low

    @property
    def speedup_high(self) -> float:
        """Now `speedup.high`."""
        warnings.warn("speedup_high is now speedup.high.", DeprecationWarning, stacklevel=2)
        return self.speedup.high


@dataclass(frozen=True)
class Turns:
    """What callables took, in seconds of one call, round by round."""

    seconds: Mapping[str, tuple[float, ...]]

    def median(self, name: str) -> float:
        """Seconds of one call."""
        return statistics.median(self.seconds[name])

    def ratio(self, name: str, over: str) -> Spread:
        """How many times as fast the first is as the second, in the same round."""
        return speed_ratio(self.seconds[name], self.seconds[over])


def speed_ratio(seconds: Sequence[float], of_other: Sequence[float]) -> Spread:
    """How many times as fast as another of the same rounds."""
    return Spread.of([other / own for own, other in zip(seconds, of_other, strict=True)])


def take_turns(
    calls: Mapping[str, Callable[[], object]],
    rounds: int,
    *,
    warmup: int = 1,
    wait: Callable[[], object] = lambda: None,
    progress: Callable[[int, int], None] | None = None,
) -> Turns:
    """Time callables in interleaved rounds of one process.

    Args:
        calls: What to time, by name.
        rounds: Samples of each. A sample is as many calls in a row as take 20 ms.
        warmup: Calls of each before anything is timed.
        wait: Called around each sample, to wait for a device that works on its own.
        progress: Called after each round with rounds done and rounds in all.
    """
    for call in calls.values():
        for _ in range(warmup):
            call()
    counts = {name: max(1, math.ceil(MIN_SECONDS / _sample(call, 1, wait))) for name, call in calls.items()}
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for done in range(rounds):
        for name in order_of_turns(list(calls), done):
            seconds[name].append(_sample(calls[name], counts[name], wait))
        if progress is not None:
            progress(done + 1, rounds)
    return Turns({name: tuple(each) for name, each in seconds.items()})


def order_of_turns(names: Sequence[str], done: int) -> list[str]:
    """Who follows whom when so many rounds are done."""
    start, backwards = done % len(names), done // len(names) % 2
    order = [*names[start:], *names[:start]]
    return order[::-1] if backwards else order


def _sample(call: Callable[[], object], count: int, wait: Callable[[], object]) -> float:
    """Seconds of one call, averaged over so many in a row."""
    wait()
    start = time.perf_counter()
    for _ in range(count):
        call()
    wait()
    return (time.perf_counter() - start) / count


def column_names(name: str) -> tuple[str, str, str]:
    """The columns of a ratio in every table: its median by its own name, then the percentiles."""
    return name, f"{name}{P10}", f"{name}{P90}"


def columns(values: Mapping[str, Any]) -> dict[str, Any]:
    """A row of a table: a Spread takes three columns, everything else its own."""
    row: dict[str, Any] = {}
    for name, value in values.items():
        own = (value.median, value.low, value.high) if isinstance(value, Spread) else (value,)
        row |= dict(zip(column_names(name), own, strict=False))
    return row
