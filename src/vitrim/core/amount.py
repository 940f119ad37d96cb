"""The amount of a method: the one setting that makes it stronger or weaker.

Each method names its own. Solvers, tables, comparisons and tests read it, so none of them knows a method by its fields.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from .schedule import RATE_STEPS, is_number, is_whole
from .spec import ViTSpec

STRONGEST = 10  # what a strength may be


class Scale(NamedTuple):
    """The values that a solver may choose from, as numbered steps. A larger step keeps more tokens."""

    low: int
    high: int
    value: Callable[[int], Any]
    prefers_round: bool = False  # of steps with equal cost, take the roundest, not the largest


@dataclass(frozen=True)
class Amount:
    """A setting and its values.

    setting: the name of the method's field. words: how tables write a value, such as "keep {:g}".
    neutral: the value that reduces nothing. usual: the default.
    solved: whether a formula gives the cost of a value, so that a solver can meet a budget.
    """

    setting: str
    words: str
    neutral: float
    usual: float
    solved: bool = False

    def check(self, value: object, name: str) -> None:
        """ValueError for a value that fits no model. name: of the method."""

    def scale(self, spec: ViTSpec) -> Scale:
        """The values that a solver may choose from."""
        raise NotImplementedError(f"{self.setting} has no scale for a solver.")


@dataclass(frozen=True)
class Share(Amount):
    """A share: above 0 and at most 1."""

    solved: bool = True

    def check(self, value: object, name: str) -> None:
        if not is_number(value) or not 0 < value <= 1:
            raise ValueError(f"{name}: {self.setting} must be above 0 and at most 1, not {value!r}.")

    def scale(self, spec: ViTSpec) -> Scale:
        return Scale(1, RATE_STEPS, lambda step: step / RATE_STEPS, prefers_round=True)


@dataclass(frozen=True)
class Strength(Amount):
    """An exponent of the shares that a schedule keeps: 0 keeps all, 1 follows the schedule."""

    solved: bool = True

    def check(self, value: object, name: str) -> None:
        if not is_number(value) or not 0 <= value <= STRONGEST:
            raise ValueError(f"{name}: {self.setting} is a number from 0 to {STRONGEST}, not {value!r}.")

    def scale(self, spec: ViTSpec) -> Scale:
        steps = 1000
        return Scale(-STRONGEST * steps, 0, lambda step: -step / steps, prefers_round=True)


@dataclass(frozen=True)
class PerBlock(Amount):
    """Patches to remove in each block that reduces; at most half of those that arrive there.

    layers: these blocks of a model; None means all.
    """

    solved: bool = True
    layers: Callable[[ViTSpec], Sequence[int]] | None = None

    def check(self, value: object, name: str) -> None:
        if not is_whole(value) or value < 0:
            raise ValueError(f"{name}: {self.setting} must be a whole number of patches, at least 0, not {value!r}.")

    def scale(self, spec: ViTSpec) -> Scale:
        layers = range(spec.depth) if self.layers is None else self.layers(spec)
        most = sum(layer >= spec.first_reducible_layer for layer in layers) * (spec.num_patches // 2)
        return Scale(-most, 0, lambda step: distribute(-step, spec, layers))


def distribute(total: int, spec: ViTSpec, layers: Sequence[int] | None = None) -> list[int]:
    """Patches to remove in each of these layers (None: all): as equal as possible, larger numbers first.

    At most half of what enters. Blocks that cannot be read remove none.
    """
    layers = range(spec.depth) if layers is None else layers
    free = [layer for layer in layers if layer >= spec.first_reducible_layer]
    share, rest = divmod(total, max(len(free), 1))
    patches, removed = spec.num_patches, [0] * (len(layers) - len(free))
    for place in range(len(free)):
        removed.append(min(share + (place < rest), patches // 2))
        patches -= removed[-1]
    return removed


KEEP_RATE = Share("keep_rate", "keep {:g}", neutral=1.0, usual=0.7)
