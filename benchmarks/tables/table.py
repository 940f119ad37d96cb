"""A table of a document: a sentence, lines made of recorded rows, and where the rows are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vitrim.measure.turns import column_names

from .. import rows as recorded
from ..rows import Row, last_of, read

SPREAD = "interleaved rounds (10th to 90th percentile)"
CELL = ("model", "method", "batch")
Cell = Callable[[Row], str]
About = Callable[[Sequence[Row]], str]


def nothing(_: Sequence[Row]) -> str:
    return ""


@dataclass(frozen=True, kw_only=True)
class Table(ABC):
    """What stands between two marks of a document."""

    files: str  # in results/
    about: About  # the sentence before it
    key: Sequence[str] = ()  # columns that tell rows apart, if more than the newest file counts
    sort: Callable[[Row], Any] | None = None
    after: About = nothing
    cpu: bool = True  # whether the processor is named

    @abstractmethod
    def header(self, rows: Sequence[Row]) -> Sequence[str]:
        """The titles of the columns."""

    @abstractmethod
    def lines(self, rows: Sequence[Row]) -> Iterable[Sequence[str]]:
        """The cells of each line."""

    def text(self) -> str:
        """The table in Markdown."""
        rows, links = rows_of(self.files, self.key)
        rows = sorted(rows, key=self.sort) if self.sort else rows
        header = self.header(rows)
        head = f"| {' | '.join(header)} |".replace("|  |", "| |")
        table = [head, "|---" * len(header) + "|", *(f"| {' | '.join(line)} |" for line in self.lines(rows))]
        on = f", {rows[0]['cpu']}" if self.cpu else ""
        return "\n".join([self.about(rows), "", *table, self.after(rows), f"Rows: {links}{on}.", ""])


@dataclass(frozen=True, kw_only=True)
class List(Table):
    """One line for each row."""

    columns: Mapping[str, Cell]
    only: Callable[[Row], bool] | None = None

    def header(self, rows: Sequence[Row]) -> Sequence[str]:
        return list(self.columns)

    def lines(self, rows: Sequence[Row]) -> Iterable[Sequence[str]]:
        shown = filter(self.only, rows) if self.only else rows
        return [[cell(row) for cell in self.columns.values()] for row in shown]


@dataclass(frozen=True, kw_only=True)
class Grid(Table):
    """A line for each group of rows, and a column for each kind of them."""

    header_of: Callable[[Sequence[Row]], Sequence[str]]
    lines_of: Callable[[Sequence[Row]], Iterable[Sequence[str]]]

    def header(self, rows: Sequence[Row]) -> Sequence[str]:
        return self.header_of(rows)

    def lines(self, rows: Sequence[Row]) -> Iterable[Sequence[str]]:
        return self.lines_of(rows)


def rows_of(files: str, key: Sequence[str]) -> tuple[list[Row], str]:
    """Rows of the newest file, and a link to it. With a key those of all files by the same torch, the last of each."""
    paths = sorted(recorded.RESULTS.glob(files), key=lambda path: path.stem[-10:])
    torch = paths[-1].stem.rpartition("_")[0]
    paths = [path for path in paths if key and path.stem.startswith(torch)] or paths[-1:]
    rows = [row for path in paths for row in read(path)]
    links = ", ".join(f"[{path.name}](results/{path.name})" for path in paths)
    return last_of(rows, *key) if key else rows, links


def told(text: str) -> About:
    """A sentence with values of the first row, and the number of rounds."""
    return lambda rows: text.format(**rows[0], num=num_rounds(rows) if "rounds" in rows[0] else "")


def num_rounds(rows: Sequence[Row]) -> str:
    """How many there were: '30', or '25 to 60'."""
    numbers = sorted({int(row["rounds"]) for row in rows})
    return " to ".join(str(number) for number in dict.fromkeys((numbers[0], numbers[-1])))


def rounded(name: str, unit: str = "", decimals: int = 2) -> Cell:
    """A number; nothing where it was not measured."""
    return lambda row: f"{float(row[name]):.{decimals}f}{unit}" if row[name] else ""


def measured(name: str) -> Cell:
    """**median** (10th to 90th percentile); nothing where it was not measured."""

    def cell(row: Row) -> str:
        if not row[name]:
            return ""
        median, low, high = (float(row[column]) for column in column_names(name))
        return f"**{median:.2f}** ({low:.2f} to {high:.2f})"

    return cell


def plain(name: str) -> Cell:
    return lambda row: row[name]


def model(row: Row) -> str:
    """Without patch size and resolution: 'deit_tiny'."""
    return row["model"].removesuffix("_patch16_224")


def reduced(row: Row) -> bool:
    return row.get("method", row.get("setting")) not in ("unreduced", "no exits")


SPEED = {
    "MAC ratio": rounded("mac_ratio"),
    "speed-up": measured("speedup"),
    "of the MAC ratio": rounded("speedup_per_mac_ratio"),
}
