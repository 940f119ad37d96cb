"""What each row answered to each image: predictions.csv, with a line per image and a column per row.

From it come the images lost and won against the unreduced model, and which classes they are of.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..measure.class_names import whole_number
from ..text import shown

PREDICTIONS = "predictions.csv"
HEADER = ("file", "label")
MOST_BYTES = 256 * 2**20


@dataclass(frozen=True)
class Change:
    """An image that only one of two models gets right."""

    index: int  # of the image
    label: int
    before: int  # class that the unreduced model predicts
    after: int
    lost: bool  # the unreduced model is right; else the reduced one is


@dataclass(frozen=True)
class Predictions:
    """Images that could be read, their classes, and the class that each row predicts."""

    files: Sequence[str] = ()
    labels: Sequence[int] = ()
    rows: Mapping[str, Sequence[int]] = field(default_factory=dict)  # by the row's name

    def adding(self, name: str, predicted: Sequence[int]) -> Predictions:
        """With one more row."""
        return replace(self, rows={**self.rows, name: tuple(predicted)})

    def changes(self, before: str, after: str) -> list[Change] | None:
        """The images that were lost and won, in order. None if a row is missing."""
        if before not in self.rows or after not in self.rows:
            return None
        return list(self._changes(self.rows[before], self.rows[after]))

    def _changes(self, before: Sequence[int], after: Sequence[int]) -> Iterator[Change]:
        for i, (label, one, other) in enumerate(zip(self.labels, before, after, strict=True)):
            if (one == label) != (other == label):
                yield Change(i, label, one, other, lost=one == label)

    def text(self) -> str:
        """The content of predictions.csv."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow((*HEADER, *self.rows))
        writer.writerows(zip(self.files, self.labels, *self.rows.values(), strict=True))
        return out.getvalue()


def read_predictions(path: Path) -> Predictions:
    """Read a predictions.csv. Empty if there is none. Raises ValueError for anything else."""
    if not path.exists():
        return Predictions()
    if not path.is_file() or path.stat().st_size > MOST_BYTES:
        raise ValueError(f"{path} is not a file of at most {MOST_BYTES} bytes")
    try:
        with path.open(newline="", encoding="utf-8") as lines:
            header, *images = csv.reader(lines)
        files, labels, *rows = zip(*images, strict=True) if images else ((),) * len(header)
    except (ValueError, csv.Error) as error:
        raise ValueError(f"{path} is not a table of predictions ({error})") from error
    if tuple(header[:2]) != HEADER or len(set(header)) < len(header):
        raise ValueError(f"{path} does not begin with the columns file and label, or repeats a column")
    named = dict(zip(header[2:], map(_classes, rows), strict=True))
    return Predictions(tuple(files), _classes(labels), named)


def _classes(cells: Sequence[str]) -> tuple[int, ...]:
    found = tuple(map(whole_number, cells))
    for cell, number in zip(cells, found, strict=True):
        if number is None:
            raise ValueError(f"a prediction is the number of a class, not {shown(cell, 40)}")
    return tuple(number for number in found if number is not None)
