"""The table of docs/export.md."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..rows import Row
from .table import Grid, Table


def exported(rows: Sequence[Row]) -> tuple[dict[tuple[str, str], Row], list[str]]:
    """The last row of each method and route, and the reasons of those that were refused."""
    last = {(row["method"], row["route"]): row for row in rows}
    return last, list(dict.fromkeys(row["refused"] for row in last.values() if not row["worst_difference"]))


def routes(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(row["route"] for row in rows))


def lines(rows: Sequence[Row]) -> Iterable[Sequence[str]]:
    last, reasons = exported(rows)

    def cell(row: Row | None) -> str:
        if row is None:
            return "not tried"
        return row["worst_difference"] or f"no ({reasons.index(row['refused']) + 1})"

    for method in dict.fromkeys(row["method"] for row in rows):
        yield [method, *(cell(last.get((method, route))) for route in routes(rows))]


def not_written(rows: Sequence[Row]) -> str:
    """Why methods do not go through, numbered as in the cells."""
    reasons = [f"{i + 1}. {reason}" for i, reason in enumerate(exported(rows)[1])]
    return "\n".join([f"\nNot written ({len(reasons)} reasons):\n", *reasons, ""]) if reasons else ""


TABLES: dict[str, Table] = {
    "export": Grid(
        files="export_torch*.csv",
        key=("method", "route"),
        about=lambda _: "Largest difference between a logit of the artefact and of eager, over batches of 1 and 7.",
        header_of=lambda rows: ["method", *routes(rows)],
        lines_of=lines,
        after=not_written,
        cpu=False,
    ),
}
