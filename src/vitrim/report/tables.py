"""A table that a page, a terminal and papers share: columns, and lines of cells with their numbers.

`markdown`, `latex` and `csv_text` write it as text.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from ..method_looks import Look

Format = Literal["html", "latex", "markdown", "csv"]
LATEX = str.maketrans(
    {c: f"\\{c}" for c in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
)
TYPOGRAPHY = str.maketrans({"\u2212": "-", "\u2013": "-"})


@dataclass(frozen=True)
class Column:
    """A column. down: whether large values are the interesting ones. hint: what it says, on hover."""

    title: str
    words: bool = False
    down: bool = False
    hint: str = ""


@dataclass(frozen=True)
class Cell:
    """What a line says in a column. note: in small letters. value: to sort by. link: to another part of the page."""

    text: str
    note: str = ""
    value: float | str = ""
    link: str = ""


@dataclass(frozen=True)
class Badge:
    """A word beside a line's name. tone: strong or warns."""

    text: str
    hint: str = ""
    tone: str = ""


@dataclass(frozen=True)
class Line:
    """A row: the id by which points lead to it, its look, and a cell for each column."""

    id: str
    look: Look
    cells: Sequence[Cell]
    badges: Sequence[Badge] = ()
    kind: str = ""  # first, recommended
    hollow: bool = False
    best: bool = False  # on a front


@dataclass(frozen=True)
class Table:
    """Columns and lines. reasons: lines without numbers, which say why."""

    columns: Sequence[Column]
    lines: Sequence[Line]
    reasons: Sequence[tuple[str, str]] = field(default=())


def written(table: Table, kind: Format) -> str:
    """The table as text. ValueError for a page, which is more than a table."""
    makers = {"latex": latex, "markdown": markdown, "csv": csv_text}
    if kind not in makers:
        raise ValueError(f"a table is written as {', '.join(makers)}, not {kind!r}.")
    return makers[kind](table)


def markdown(table: Table) -> str:
    """A table of Markdown."""
    marks = ["---" if column.words else "---:" for column in table.columns]
    rows = [[column.title for column in table.columns], marks, *_texts(table)]
    return "".join(f"| {' | '.join(_plain(cell).replace('|', chr(92) + '|') for cell in row)} |\n" for row in rows)


def latex(table: Table) -> str:
    """A tabular of LaTeX, for the package booktabs."""
    places = "".join("l" if column.words else "r" for column in table.columns)
    lines = [" & ".join(_plain(cell).translate(LATEX) for cell in row) + r" \\" for row in _texts(table)]
    head = " & ".join(column.title.translate(LATEX) for column in table.columns) + r" \\"
    begin = [r"% needs \usepackage{booktabs}", rf"\begin{{tabular}}{{{places}}}", r"\toprule"]
    return "\n".join([*begin, head, r"\midrule", *lines, r"\bottomrule", r"\end{tabular}", ""])


def csv_text(table: Table) -> str:
    """A CSV file: texts as in the table, each note in a column of its own."""
    noted = [i for i, _ in enumerate(table.columns) if any(line.cells[i].note for line in table.lines)]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        name
        for i, c in enumerate(table.columns)
        for name in ([c.title, f"{c.title}, range"] if i in noted else [c.title])
    )
    for line in table.lines:
        texts = ([cell.text, cell.note] if i in noted else [cell.text] for i, cell in enumerate(line.cells))
        writer.writerow(_plain(text) for pair in texts for text in pair)
    return out.getvalue()


def records_csv(header: Sequence[str], records: Sequence[Sequence[object]]) -> str:
    """The data of a figure as CSV; numbers with four significant digits."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([f"{each:.4g}" if isinstance(each, float) else each for each in record] for record in records)
    return out.getvalue()


def digits(number: float) -> str:
    """Three significant digits, without an exponent."""
    return f"{number:.0f}" if number >= 1000 else f"{number:.3g}"


def _texts(table: Table) -> list[list[str]]:
    return [[_text(cell) for cell in line.cells] for line in table.lines]


def _text(cell: Cell) -> str:
    return f"{cell.text} ({cell.note})" if cell.text and cell.note else cell.text or cell.note


def _plain(text: str) -> str:
    """ASCII signs, on one line."""
    return " ".join(text.translate(TYPOGRAPHY).split())
