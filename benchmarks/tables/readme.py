"""The tables of README.md."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..rows import Row
from .table import CELL, SPEED, SPREAD, Grid, Table, reduced, told

TITLES = {
    "evit": "EViT",
    "evit-nofuse": "EViT, no fusion (top-k)",
    "token_mergence": "TM",
    "beyond_attentive": "BAT",
    "evit+bat": "EViT + BAT",
    "tome": "ToMe, at EViT's MACs",
    "feature_norm": "feature norm",
    "random": "random",
}
RATES = ("0.9", "0.7", "0.5")


def by_batch(rows: Sequence[Row]) -> tuple[dict[str, dict[str, Row]], list[str]]:
    """Rows of DeiT-Small by method and batch, and the batches, the largest first."""
    found: dict[str, dict[str, Row]] = {}
    for row in rows:
        if row["model"].startswith("deit_small") and reduced(row):
            found.setdefault(row["method"], {})[row["batch"]] = row
    return found, sorted({batch for each in found.values() for batch in each}, key=int, reverse=True)


def about_speed(rows: Sequence[Row]) -> str:
    shown = [row for own in by_batch(rows)[0].values() for row in own.values()]
    place = "{img_size} px, {dtype}, {threads} CPU threads, median of {num} " + SPREAD
    return told(f"Speed of DeiT-Small over the unreduced model at {place}:")(shown)


def speed_lines(rows: Sequence[Row]) -> Iterable[Sequence[str]]:
    methods, batches = by_batch(rows)
    for name, own in methods.items():
        yield [name, SPEED["MAC ratio"](own[batches[0]]), *(SPEED["speed-up"](own[batch]) for batch in batches)]


def accuracy_lines(rows: Sequence[Row]) -> Iterable[Sequence[str]]:
    drops = {(row["method"], row["setting"]): float(row["drop"]) for row in rows}
    for method, title in TITLES.items():
        yield [title, *(f"{drops[method, f'keep {rate}']:.1f}" for rate in RATES)]


TABLES: dict[str, Table] = {
    "speed_short": Grid(
        files="speed_*.csv",
        key=CELL,
        about=about_speed,
        header_of=lambda rows: ["method", "MAC ratio", *(f"batch {batch}" for batch in by_batch(rows)[1])],
        lines_of=speed_lines,
    ),
    "accuracy": Grid(
        files="accuracy_*.csv",
        about=lambda rows: (
            f"Top-1 lost by DeiT-Tiny without any training, in points, on {rows[0]['num_images']} ImageNet validation "
            f"images (unreduced: {float(rows[0]['top1']):.1f} %; easier than the full set, so compare drops only):"
        ),
        header_of=lambda _: ["method", *(f"keep {rate}" for rate in RATES)],
        lines_of=accuracy_lines,
        cpu=False,
    ),
}
