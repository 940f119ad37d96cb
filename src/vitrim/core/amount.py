"""The amount of a method: the one setting that makes it stronger or weaker.

Each method names its own. Solvers, tables, comparisons and tests read it, so none of them knows a method by its fields.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from .schedule import RATE_STEPS, is_number, is_whole
from .spec import ViTSpec


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
class PerBlock(Amount):
    """Patches to remove in each block, at most half of those that enter it."""

    solved: bool = True

    def check(self, value: object, name: str) -> None:
        if not is_whole(value) or value < 0:
            raise ValueError(f"{name}: {self.setting} must be a whole number of patches, at least 0, not {value!r}.")

    def scale(self, spec: ViTSpec) -> Scale:
        most = (spec.depth - spec.first_reducible_layer) * (spec.num_patches // 2)
        return Scale(-most, 0, lambda step: distribute(-step, spec))


def distribute(total: int, spec: ViTSpec) -> tuple[int, ...]:
    """Patches to remove in each block: as equal as possible, larger numbers first, at most half of what enters.

    Blocks that cannot be read remove none.
    """
    blocks = spec.depth - spec.first_reducible_layer
    share, rest = divmod(total, blocks)
    patches, removed = spec.num_patches, [0] * spec.first_reducible_layer
    for layer in range(blocks):
        removed.append(min(share + (layer < rest), patches // 2))
        patches -= removed[-1]
    return tuple(removed)


KEEP_RATE = Share("keep_rate", "keep {:g}", neutral=1.0, usual=0.7)
