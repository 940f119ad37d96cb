"""Which methods lose against a rival of equal measured time, and how sure that is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..measure.paired import PairedLoss
from ..measure.turns import Spread
from ..rivals import beats
from .predictions import Predictions
from .row import UNREDUCED, Row


@dataclass(frozen=True)
class Verdict:
    """A method's row, and the rival that loses least of those that take at most as long."""

    row: Row
    rival: Row
    between: PairedLoss | None  # what the method loses against the rival on the same images; None for old rows
    speed: Spread  # of the method, over the unreduced model
    rival_speed: Spread

    @property
    def sure(self) -> bool:
        """Whether the images are enough to tell: the 95 % interval between both is above 0."""
        return self.between is not None and self.between.interval[0] > 0

    @property
    def sentence(self) -> str:
        """The verdict in a sentence."""
        likely = "" if self.sure else "; the images are too few to be sure"
        return (
            f"{self.row.name} ({_loss(self.row)}, {self.speed:.2f}x) loses against the rival {self.rival.name} "
            f"({_loss(self.rival)}, {self.rival_speed:.2f}x){likely}."
        )


def verdicts(
    rows: Sequence[Row], predictions: Predictions, speed_of: Callable[[Row], Spread] = lambda row: row.speedup
) -> list[Verdict]:
    """The methods that a rival beats: at least as fast (`rivals.beats`), with less accuracy lost.

    speed_of: which measured speed counts. By default that of the run's batch size.
    """
    rivals, found = [row for row in rows if row.rival], []
    for row in rows:
        if row.rival or row.method == UNREDUCED:
            continue
        better = [each for each in rivals if beats(speed_of(each), each.drop, speed_of(row), row.drop)]
        if better:
            best = min(better, key=lambda each: each.drop)
            found.append(Verdict(row, best, _between(best, row, predictions), speed_of(row), speed_of(best)))
    return found


def _between(rival: Row, row: Row, predictions: Predictions) -> PairedLoss | None:
    changes = predictions.changes(rival.name, row.name)
    if changes is None:
        return None
    lost = sum(each.lost for each in changes)
    return PairedLoss.of_counts(row.num_right, lost, len(changes) - lost, row.num_images)


def _loss(row: Row) -> str:
    if row.paired is None:
        return f"{row.drop:.1f} points lost"
    low, high = row.paired.interval
    return f"{row.drop:.1f} points lost, 95 % interval {low:.1f} to {high:.1f}"
