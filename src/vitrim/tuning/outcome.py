"""What a search found, how it compares, and the files that say so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ..measure.paired import PairedLoss
from ..measure.turns import Spread
from ..rivals import beats

ACCURACY, ANSWERS, SIMILARITY = "accuracy", "answers", "similarity"  # what can be lost
UNREDUCED, TUNED, METHOD, RIVAL = "unreduced", "tuned", "method", "rival"


@dataclass(frozen=True)
class Row:
    """One way to run the model, measured on the images that the search has not seen."""

    name: str  # "ward, tuned", "tome r 11", "176 px"
    kind: str  # unreduced, tuned, method or rival
    gmacs: float
    speedup: Spread  # over the unreduced model, in turns
    latency_ms: float  # of one batch
    divergence: float  # mean over the images
    lost: float  # what `Tuned.loss` says, in points or per cent
    interval: tuple[float, float]  # 95 % interval of `lost`
    paired: PairedLoss | None = None  # the images behind it; none for embeddings


@dataclass(frozen=True)
class Tuned:
    """The recommended setting, and what it was compared with.

    method: name and settings for `reduce_tokens`. target: what was asked, as (name, value). rows: the unreduced model,
    the tuned one, methods and rivals.
    """

    model: str
    method: str
    settings: Mapping[str, Any]
    target: tuple[str, float]
    unit: str
    unreduced_cost: float
    cost: float
    rows: Sequence[Row]
    schedule: Sequence[int]
    num_searched: int
    num_held_out: int
    num_tried: int
    seconds: float
    loss: str  # what `Row.lost` is of: accuracy, answers or similarity
    divergence_unit: str
    batch_size: int
    seed: int
    notes: Sequence[str] = field(default_factory=tuple)
    block_ms: Mapping[str, Mapping[int, float]] = field(default_factory=dict)  # measured, by part and patches
    tried: Sequence[Mapping[str, Any]] = field(default_factory=tuple)  # every candidate of the search, see `Candidate`
    way: str = ""  # in which the models were run while they were timed

    @property
    def best(self) -> Row:
        """The tuned row."""
        return next(row for row in self.rows if row.kind == TUNED)

    @property
    def what_is_lost(self) -> str:
        """What `Row.lost` counts, for the head of a column."""
        return {ACCURACY: "accuracy lost, points", ANSWERS: "answers changed, %"}.get(self.loss, "similarity lost, %")

    @property
    def answer(self) -> str:
        """The recommendation in one sentence."""
        row, (low, high) = self.best, self.best.interval
        words = {ACCURACY: "loses {:.2f} points of accuracy", ANSWERS: "changes {:.2f} % of the answers"}
        loss = words.get(self.loss, "loses {:.3f} % of the cosine similarity").format(row.lost)
        return (
            f"{self.model} with {self.method} runs {row.speedup.median:.2f} times as fast ({row.speedup.range}) at "
            f"batch {self.batch_size} and {loss} (95 % interval {low:.2f} to {high:.2f}, {self.num_held_out} images "
            "that the search has not seen)."
        )

    @property
    def use(self) -> str:
        """The line of code that uses it, every setting spelled out."""
        settings = ", ".join(f"{name}={value!r}" for name, value in self.settings.items())
        return f'vitrim.reduce_tokens(model, "{self.method}", {settings})'

    def beaten_by(self) -> list[Row]:
        """Rivals that are as fast and lose less (`beats`)."""
        mine = self.best
        rivals = (row for row in self.rows if row.kind == RIVAL)
        return [row for row in rivals if beats(row.speedup, row.lost, mine.speedup, mine.lost)]

    def content(self) -> dict[str, Any]:
        """Plain values, for tuned.json."""
        rows = [asdict(row) | {"speedup": _spread(row.speedup)} for row in self.rows]
        own = {name: value for name, value in asdict(self).items() if name != "rows"}
        return own | {"answer": self.answer, "use": self.use, "rows": rows}


def _spread(speedup: Spread) -> dict[str, float]:
    return {"median": speedup.median, "p10": speedup.low, "p90": speedup.high}
