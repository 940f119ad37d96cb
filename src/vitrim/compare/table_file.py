"""results.csv: a line per row, a column per number, each rounded to what is known of it."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

from ..measure.turns import P10, P90, column_names, columns
from .method_text import assigned
from .row import Refusal, Row
from .stored import SPREADS

INTERVAL = ("drop_low", "drop_high")  # 95 % interval of the drop, from the same images on both models
DECIMALS = {
    **dict.fromkeys(("top1", "top5", "drop", *INTERVAL), 2),  # of 10,000 images, one is 0.01
    **{f"{name}{end}": 3 for name in SPREADS for end in ("", P10, P90)},
    "mac_ratio": 3,
    "gmacs": 6,
    "diversity": 4,
    "peak_memory_mb": 1,
}
DIGITS = {"images_per_s": 4, "latency_1_ms": 4}  # significant


def column_titles() -> Iterator[str]:
    """The header of results.csv."""
    for each in fields(Row):
        yield from column_names(each.name) if each.type == "Spread" else (each.name,)
        if each.name == "drop":
            yield from INTERVAL
    yield "reason"


def table_text(rows: Sequence[Row], refused: Sequence[Refusal] = ()) -> str:
    """The content of results.csv."""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(column_titles()), lineterminator="\n")
    writer.writeheader()
    writer.writerows(map(cells, rows))
    writer.writerows(asdict(each) for each in refused)
    return out.getvalue()


def cells(row: Row) -> Mapping[str, Any]:
    """The values of a line by column, as they are written."""
    values = columns(asdict(row))
    values["settings"] = assigned(row.settings)
    values["tokens"] = " ".join(map(str, row.tokens))
    if row.paired is not None:
        values |= dict(zip(INTERVAL, row.paired.interval, strict=True))
    return {name: rounded(name, value) for name, value in values.items()}


def rounded(name: str, value: object) -> object:
    """A number with as many digits as are known in its column; anything else as it is."""
    if not isinstance(value, float):
        return value
    if name in DECIMALS:
        return f"{round(value, DECIMALS[name]) or 0.0:.{DECIMALS[name]}f}"  # no minus before a zero
    return f"{value:.{DIGITS[name]}g}" if name in DIGITS else value
