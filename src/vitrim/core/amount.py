"""How much a method reduces: the one setting that makes it stronger or weaker. Each method names its own.

Solvers, tables, comparisons and tests read this, so that none of them knows a method by its fields.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from .schedule import RATE_STEPS, is_number, is_whole
from .spec import ViTSpec


class Scale(NamedTuple):
    """The values that a solver may choose from, numbered: the larger the number, the more tokens stay."""

    low: int
    high: int
    value: Callable[[int], Any]
    prefers_round: bool = False  # whether, of numbers that cost the same, the roundest is taken, or else the largest


@dataclass(frozen=True)
class Amount:
    """A setting, and what is known of its values.

    setting: the name of the method's field. words: a value in tables, such as "keep {:g}".
    neutral: the value that reduces nothing. usual: the value taken where none is asked for.
    solved: whether a formula tells what a value costs, so that a budget can be solved for it.
    """

    setting: str
    words: str
    neutral: float
    usual: float
    solved: bool = False

    def check(self, value: object, name: str) -> None:
        """ValueError for a value that no model could take. name: of the method."""

    def scale(self, spec: ViTSpec) -> Scale:
        """What a solver chooses from to meet a budget, if it is solved for."""
        raise NotImplementedError(f"{self.setting} does not say what a solver may choose from.")


@dataclass(frozen=True)
class Share(Amount):
    """A share, above 0 and at most 1."""

    solved: bool = True

    def check(self, value: object, name: str) -> None:
        if not is_number(value) or not 0 < value <= 1:
            raise ValueError(f"{name}: {self.setting} is above 0 and at most 1, not {value!r}.")

    def scale(self, spec: ViTSpec) -> Scale:
        return Scale(1, RATE_STEPS, lambda step: step / RATE_STEPS, prefers_round=True)


@dataclass(frozen=True)
class PerBlock(Amount):
    """Patches to remove in each block; at most half of those that arrive there."""

    solved: bool = True

    def check(self, value: object, name: str) -> None:
        if not is_whole(value) or value < 0:
            raise ValueError(f"{name}: {self.setting} is a whole number of patches, at least 0, not {value!r}.")

    def scale(self, spec: ViTSpec) -> Scale:
        most = (spec.depth - spec.first_reducible_layer) * (spec.num_patches // 2)
        return Scale(-most, 0, lambda step: distribute(-step, spec))


def distribute(total: int, spec: ViTSpec) -> tuple[int, ...]:
    """Patches to remove in each block: as equal as possible, larger ones first, and at most half of what arrives.

    None in blocks that cannot be read.
    """
    blocks = spec.depth - spec.first_reducible_layer
    share, rest = divmod(total, blocks)
    patches, removed = spec.num_patches, [0] * spec.first_reducible_layer
    for layer in range(blocks):
        removed.append(min(share + (layer < rest), patches // 2))
        patches -= removed[-1]
    return tuple(removed)


KEEP_RATE = Share("keep_rate", "keep {:g}", neutral=1.0, usual=0.7)
