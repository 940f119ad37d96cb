"""How rows of results/ read in a table: their numbers as text."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

from rows import Row

SPREAD = "interleaved rounds (10th to 90th percentile)"


def rounded(row: Row, name: str) -> str:
    """To two decimals; nothing where it was not measured."""
    return f"{float(row[name]):.2f}" if row[name] else ""


def measured(row: Row, name: str) -> str:
    """**median** (10th to 90th percentile); nothing where it was not measured."""
    if not row[name]:
        return ""
    return f"**{float(row[name]):.2f}** ({float(row[f'{name}_p10']):.2f} to {float(row[f'{name}_p90']):.2f})"


def num_rounds(rows: list[Row]) -> str:
    """How many there were: '30', or '25 to 60'."""
    numbers = sorted({int(row["rounds"]) for row in rows})
    return " to ".join(str(number) for number in dict.fromkeys((numbers[0], numbers[-1])))


def mean_of_seeds(rows: list[Row]) -> str:
    """Top-1, mean and standard deviation: '75.3 ± 0.2'; 'not run' without rows."""
    values = [float(row["top1"]) for row in rows]
    return f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}" if values else "not run"


def short_name(row: Row) -> str:
    """The model's name without patch size and resolution: 'deit_tiny'."""
    return row["model"].removesuffix("_patch16_224")


def with_source(lines: Sequence[str], path: Path, cpu: str = "") -> str:
    """A table and, below it, the file that its rows come from, and the processor."""
    on = f", {cpu}" if cpu else ""
    return "\n".join([*lines, "", f"Rows: [{path.name}](results/{path.name}){on}.", ""])
