"""The answer of a comparison in a sentence, for batch 1 and for the measured batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..measure.turns import Spread
from .row import Row, sampling_error

SMALL_LOSS = 1.0  # points of top-1
LIMIT = f"at most {SMALL_LOSS:g} point"


@dataclass(frozen=True)
class Answer:
    """What to use at a batch size. row: the recommended one, if there is any. sure: or only the best guess."""

    batch: int
    sentence: str
    row: Row | None = None
    more: str = ""
    sure: bool = True


def answers(rows: Sequence[Row]) -> list[Answer]:
    """One for batch 1 and one for the measured batch. The first row is the unreduced model."""
    if len(rows) < 2:
        return []
    found, batch = [_answer(rows[1:], 1, lambda row: row.speedup_1)], rows[0].batch
    same = [row for row in rows[1:] if row.batch == batch]
    return found if batch == 1 or not same else [*found, _answer(same, batch, lambda row: row.speedup)]


def interval(row: Row) -> tuple[float, float]:
    """95 % interval of the points lost: of the same images on both models, or of the accuracy alone in old files."""
    if row.paired is not None:
        return row.paired.interval
    return row.drop - sampling_error(row), row.drop + sampling_error(row)


def described(row: Row, speed: Spread) -> str:
    """Speed and loss with their ranges."""
    low, high = interval(row)
    return (
        f"{speed:.2f} times as fast ({speed.range}), {signed(row.drop)} points lost "
        f"(95 % interval {signed(low)} to {signed(high)})"
    )


def signed(number: float, digits: int = 1) -> str:
    """A number with a typographic minus, and none before zero."""
    return f"{round(number, digits) or 0.0:.{digits}f}".replace("-", "\u2212")


def _answer(rows: Sequence[Row], batch: int, speed_of: Callable[[Row], Spread]) -> Answer:
    faster = [row for row in rows if speed_of(row) > 1]
    if not faster:
        return Answer(batch, "Nothing that was measured is faster than the unreduced model.")
    close = [row for row in faster if row.drop <= SMALL_LOSS]
    if not close:
        least = min(faster, key=lambda row: row.drop)
        loss = described(least, speed_of(least))
        sentence = f"Nothing that was measured is faster and loses {LIMIT}. {_capital(least)} loses least: {loss}."
        return Answer(batch, sentence, more=_more(least, speed_of))
    fastest = max(close, key=speed_of)
    sure = [row for row in close if interval(row)[1] <= SMALL_LOSS]
    if not sure:
        return Answer(batch, _unsure(fastest, speed_of), fastest, _more(fastest, speed_of), sure=False)
    best = max(sure, key=speed_of)
    sentence = f"{_capital(best)} is the fastest that loses {LIMIT}: {described(best, speed_of(best))}."
    return Answer(
        batch, sentence, best, " ".join(filter(None, (_faster(best, fastest, speed_of), _more(best, speed_of))))
    )


def _unsure(row: Row, speed_of: Callable[[Row], Spread]) -> str:
    """The best guess, and about how many images it takes to tell."""
    wide, allowed = interval(row)[1] - row.drop, max(SMALL_LOSS - row.drop, SMALL_LOSS / 2)
    needed = _rounded(math.ceil(row.num_images * (wide / allowed) ** 2))
    return (
        f"It cannot be told from {row.num_images:,} images what loses {LIMIT}. About {needed:,} would tell. The best "
        f"guess is {_name(row)}: {described(row, speed_of(row))}."
    )


def _faster(best: Row, fastest: Row, speed_of: Callable[[Row], Spread]) -> str:
    if fastest is best:
        return ""
    return (
        f"{_capital(fastest)} ({speed_of(fastest):.2f} times) may lose as little, which cannot be told from "
        f"{fastest.num_images:,} images."
    )


def _more(row: Row, speed_of: Callable[[Row], Spread]) -> str:
    if speed_of(row).noisy:
        return "The machine was busy while this was measured, so its speed is not certain."
    if speed_of(row).low <= 1:
        return "Its rounds include some that were no faster than the unreduced model."
    return ""


def _capital(row: Row) -> str:
    """The name to begin a sentence. Names of methods stay as they are written."""
    return f"The rival {row.name}" if row.rival else row.name


def _name(row: Row) -> str:
    return f"the rival {row.name}" if row.rival else row.name


def _rounded(count: int) -> int:
    """Two significant digits, upwards."""
    step = 10 ** max(0, len(str(count)) - 2)
    return -(-count // step) * step
