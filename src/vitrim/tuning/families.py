"""The methods that a search chooses among: each follows any schedule.

A schedule is a tuple of patches: what enters the first block, then what leaves each. A family turns it into the
settings of one method. Its frame says which schedules the method can follow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from ..core.method import Method
from ..core.scored import WITHOUT_CLS, Scorer
from ..core.spec import ViTSpec
from ..methods.registry import create_method
from .shapes import Frame, Schedule, Shape

Settings = dict[str, Any]

SPREADS = (7e-5, 2e-4)  # variances of the scores below which PPT merges
DROPPED = (0.3, 0.6)  # of what a block removes, where the rest merges


@dataclass(frozen=True)
class Family:
    """One method with all of its settings but the schedule.

    name: for tables, such as "evit, drop, norm". follow: the settings that lead to a schedule, and to these shares of
    what each block removes being dropped. dropped: the share to begin with; None if the method has no such choice.
    """

    name: str
    method: str
    frame: Frame
    follow: Callable[[Schedule, Shape], Settings]
    dropped: float | None = None

    @property
    def shares(self) -> Shape:
        """What is dropped in each block to begin with."""
        return () if self.dropped is None else (self.dropped,) * self.frame.blocks

    def settings(self, schedule: Schedule, shares: Shape = ()) -> Settings:
        """The settings for `create_method`."""
        return self.follow(schedule, shares or self.shares)

    def make(self, schedule: Sequence[int], shares: Shape = ()) -> Method:
        """The method that follows a schedule."""
        return create_method(self.method, **self.settings(tuple(schedule), shares))


def families(spec: ViTSpec) -> tuple[Family, ...]:
    """All families that suit a model, Ward first."""
    return tuple(_all(spec))


def _all(spec: ViTSpec) -> Iterator[Family]:
    scorer: Scorer = "cls" if spec.has_cls else WITHOUT_CLS
    frame = Frame.of(spec)
    drops, merges = replace(frame, halves=False), replace(frame, drops_last=False)
    fuses = replace(drops, least=2)  # a patch and the fused token
    yield Family("ward", "ward", frame, lambda schedule, _: {"patches": list(schedule)})
    yield Family("ward, heavier", "ward", frame, lambda schedule, _: {"patches": list(schedule), "partner": "heavier"})
    if scorer != WITHOUT_CLS:
        received = {"scorer": WITHOUT_CLS}
        yield Family("ward, received", "ward", frame, lambda schedule, _: {"patches": list(schedule), **received})
    for name in ("tome", "tofu"):
        yield Family(name, name, merges, lambda schedule, _: {"r": _removed(schedule)})
    yield Family("pitome", "pitome", merges, lambda schedule, _: {"ratio": [*map(_ratio, *_sides(schedule))]})
    for spread in SPREADS:
        yield Family(f"ppt, threshold {spread:g}", "ppt", merges, _ppt(scorer, spread))
    for share in DROPPED:
        yield Family(f"diffrate, {share:.0%} dropped", "diffrate", drops, _diffrate(scorer), share)
    for each in dict.fromkeys((scorer, WITHOUT_CLS, "norm")):
        yield Family(f"evit, drop, {each}", "evit", drops, _evit(each, fuse=False))
    yield Family("evit, fuse", "evit", fuses, _evit(scorer, fuse=True))


def _sides(schedule: Schedule) -> tuple[Schedule, Schedule]:
    """What enters the blocks, and what leaves them."""
    return schedule[:-1], schedule[1:]


def _removed(schedule: Schedule) -> list[int]:
    """Patches that each block removes."""
    return [entering - leaving for entering, leaving in pairwise(schedule)]


def _ratio(entering: int, leaving: int) -> float:
    """A share that PiToMe rounds up to this number of patches; at least half."""
    return 1.0 if leaving == entering else max(round((leaving - 0.5) / entering, 5), 0.5)


def _ppt(scorer: Scorer, threshold: float) -> Callable[[Schedule, Shape], Settings]:
    def follow(schedule: Schedule, _: Shape) -> Settings:
        layers = list(range(len(schedule) - 1))
        return {"r": _removed(schedule), "layers": layers, "threshold": threshold, "scorer": scorer}

    return follow


def _diffrate(scorer: Scorer) -> Callable[[Schedule, Shape], Settings]:
    def follow(schedule: Schedule, shares: Shape) -> Settings:
        shares = (*shares, 1.0)  # behind the last block that a shape speaks of, nobody reads what would be merged
        pruned_to = [
            entering - round(share * (entering - leaving))
            for entering, leaving, share in zip(*_sides(schedule), shares, strict=False)
        ]
        return {"pruned_to": pruned_to, "merged_to": list(schedule[1:]), "patches": schedule[0], "scorer": scorer}

    return follow


def _evit(scorer: Scorer, *, fuse: bool) -> Callable[[Schedule, Shape], Settings]:
    def follow(schedule: Schedule, _: Shape) -> Settings:
        kept = [leaving - (fuse and leaving < entering) for entering, leaving in pairwise(schedule)]
        return {"tokens": kept, "scorer": scorer, "fuse": fuse}

    return follow
