"""What a schedule costs: multiply-adds by formula, or time by what was measured on this machine.

Time is not linear in tokens: attention kernels work in tiles, so a table has every number of patches where there is
time to measure it (table.py). Where a block cannot run alone as it does in the model, time is fitted to whole models,
as a sum of few terms (fitted.py).

A schedule is a tuple of patches: what enters the first block, then what leaves each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

from ..core.method import Method
from ..core.spec import ViTSpec
from ..measure.budget.formula import reduced_macs

MS = "ms"
REACH = 16  # patches by which a count may grow to the edge of a tile


class Cost(Protocol):
    """Cost of a schedule."""

    @property
    def unit(self) -> str:
        """What it is counted in."""

    @property
    def unreduced(self) -> float:
        """Of the unreduced model."""

    def __call__(self, patches: Sequence[int]) -> float:
        """Of the schedule."""

    def rounded(self, patches: Sequence[int]) -> tuple[int, ...]:
        """The schedule with more patches where they cost nothing."""


@dataclass(frozen=True)
class Macs:
    """Multiply-adds of one image, in 1e9."""

    spec: ViTSpec
    model_macs: int
    make: Callable[[Sequence[int]], Method]
    unit: str = "GMACs"

    @property
    def unreduced(self) -> float:
        """Of the unreduced model."""
        return self.model_macs / 1e9

    def __call__(self, patches: Sequence[int]) -> float:
        """Of the schedule."""
        return reduced_macs(self.model_macs, self.spec, self.make(patches)) / 1e9

    def rounded(self, patches: Sequence[int]) -> tuple[int, ...]:
        """The same: every patch costs."""
        return tuple(patches)


@dataclass(frozen=True)
class Milliseconds:
    """Time of one batch, from the time of one block's parts at each number of patches (table.py).

    A block of p patches that lets q out takes attention[p] + mlp[q], and reducing[p] more if q < p.
    """

    attention: Mapping[int, float]
    mlp: Mapping[int, float]
    reducing: Mapping[int, float]
    rest: float = 0.0  # patch embedding, head and whatever else is outside of the blocks
    unreduced: float = 0.0  # of the unreduced model
    noise: float = 0.0  # how far two halves of the rounds are apart, as a share, in the median over the table
    unit: str = MS

    @classmethod
    def read(cls, content: Mapping[str, Any]) -> Milliseconds:
        """From JSON, whose keys are text."""
        parts = {name: {int(p): ms for p, ms in content[name].items()} for name in ("attention", "mlp", "reducing")}
        return cls(**{**content, **parts})

    def __call__(self, patches: Sequence[int]) -> float:
        """Of the schedule."""
        total = self.rest
        for entering, leaving in pairwise(patches):
            total += _at(self.attention, entering) + _at(self.mlp, leaving)
            total += _at(self.reducing, entering) if leaving < entering else 0.0
        return total

    def rounded(self, patches: Sequence[int]) -> tuple[int, ...]:
        """The schedule with more patches wherever that takes no more time.

        So a count goes up to the edge of a kernel's tile, and a block that gains too little does not reduce.
        """
        found = list(patches)
        for i in range(1, len(found) - 1):
            before, count, after = found[i - 1 : i + 2]
            near = {*range(count, min(before, count + REACH) + 1), before}
            halved = count - after > count // 2  # in the last block, which may drop all
            fits = [each for each in near if halved or each - after <= each // 2]
            found[i] = min(fits, key=lambda each: (self._around(before, each, after), -each))
        return tuple(found)

    def _around(self, before: int, count: int, after: int) -> float:
        """What the number of patches between two blocks decides of their time."""
        total = _at(self.mlp, count) + _at(self.attention, count)
        total += _at(self.reducing, before) if count < before else 0.0
        return total + (_at(self.reducing, count) if after < count else 0.0)


@dataclass(frozen=True)
class Fitted:
    """Time of one batch, fitted to whole models (fitted.py).

    It has four terms: one for every model, multiply-adds of linear layers, of attention, and blocks that reduce.
    """

    spec: ViTSpec
    weights: Sequence[float]  # milliseconds of a unit of each term
    unreduced: float
    error: float  # the largest by which it misses a model that it was fitted to, as a share
    unit: str = MS

    def __call__(self, patches: Sequence[int]) -> float:
        """Of the schedule."""
        return sum(weight * term for weight, term in zip(self.weights, terms(self.spec, patches), strict=True))

    def rounded(self, patches: Sequence[int]) -> tuple[int, ...]:
        """The same: whole models do not show where kernels have steps."""
        return tuple(patches)

    def content(self) -> dict[str, Any]:
        """Plain values, without the spec."""
        return {"weights": list(self.weights), "unreduced": self.unreduced, "error": self.error}


def terms(spec: ViTSpec, patches: Sequence[int]) -> tuple[float, float, float, float]:
    """What the time of a schedule is a sum of: 1, 1e9 multiply-adds of linear layers and of attention, and blocks."""
    linear = attention = reducing = 0
    for before, after in pairwise(patches):
        entering, leaving = before + spec.num_prefix, after + spec.num_prefix
        linear += entering * spec.attention_macs + leaving * spec.mlp_macs
        attention += 2 * entering**2 * spec.attention_channels
        reducing += leaving < entering
    return 1.0, linear / 1e9, attention / 1e9, reducing


def _at(table: Mapping[int, float], patches: int) -> float:
    """The table's value, interpolated between the two nearest numbers of patches."""
    if patches in table:
        return table[patches]
    below = max((p for p in table if p < patches), default=None)
    above = min((p for p in table if p > patches), default=None)
    if below is None or above is None:
        return table[above if below is None else below]  # type: ignore[index]
    share = (patches - below) / (above - below)
    return table[below] * (1 - share) + table[above] * share
