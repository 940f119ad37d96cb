"""The tables of docs/training.md."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence

from ..rows import Row
from .table import CELL, SPEED, SPREAD, Grid, List, Table, measured, plain, reduced, rounded, told

TRAINED = {
    "evit": "EViT",
    "metr": "EViT + METR",
    "metr-lr10": "EViT + METR, heads at ten times the learning rate",
    "token_mergence": "TM",
    "beyond_attentive": "BAT",
}


def trained(rows: Sequence[Row], method: str, rate: str, updates: str) -> list[Row]:
    return [row for row in rows if (row["method"], row["keep_rate"], row["updates"]) == (method, rate, updates)]


def trained_columns(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """Keep rates and updates."""
    long = max((row["updates"] for row in rows), key=int)
    return [*((rate, rows[0]["updates"]) for rate in ("0.7", "0.5", "0.3")), ("0.3", long)]


def mean_of_seeds(rows: Sequence[Row]) -> str:
    """Top-1, mean and standard deviation: '75.3 ± 0.2'; 'not run' without rows."""
    values = [float(row["top1"]) for row in rows]
    return f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}" if values else "not run"


def about_training(rows: Sequence[Row]) -> str:
    first = rows[0]
    base = trained(rows, "unreduced", "1.0", first["updates"])
    return (
        f"DeiT-Tiny at {first['img_size']} px, fine-tuned on imagenette by updates of {first['batch_size']} images; "
        f"top-1 on its {first['val_images']} validation images, mean ± standard deviation of {len(base)} seeds. "
        f"Unreduced: {mean_of_seeds(base)} %, {float(first['gmacs']):.3f} G."
    )


def training_lines(rows: Sequence[Row]) -> Iterable[Sequence[str]]:
    columns = trained_columns(rows)
    for method, title in TRAINED.items():
        yield [title, *(mean_of_seeds(trained(rows, method, *column)) for column in columns)]
    macs = (float(trained(rows, "evit", *column)[0]["gmacs"]) for column in columns)
    yield ["MACs (EViT)", *(f"{each:.3f} G" for each in macs)]


def left_early(row: Row) -> str:
    """Per cent of the images that leave after blocks 3, 6 and 9."""
    shares = [row[f"share_after_{layer}"] for layer in (3, 6, 9)]
    return " / ".join(f"{float(share):.0f} %" for share in shares) if all(shares) else ""


TABLES: dict[str, Table] = {
    "training": Grid(
        files="imagenette_*.csv",
        key=("method", "keep_rate", "seed", "updates"),
        about=about_training,
        header_of=lambda rows: [
            "trained with",
            *(f"keep {rate}, {updates} updates" for rate, updates in trained_columns(rows)),
        ],
        lines_of=training_lines,
        cpu=False,
    ),
    "training_speed": List(
        files="training_speed_*.csv",
        key=CELL,
        about=told(
            "Speed of a training update over the unreduced model's: DeiT-Tiny at {img_size} px, batch {batch}, fp32, "
            "{threads} CPU threads, median of {num} " + SPREAD + "."
        ),
        only=reduced,
        columns={"method": plain("method"), **SPEED},
        cpu=False,
    ),
    "anytime": List(
        files="anytime_*.csv",
        about=told(
            "DeiT-Tiny at 96 px, trained on imagenette with METR at keep 0.7 (401 updates, heads at ten times the "
            "learning rate); {images} validation images; speed on two CPU cores, median of {num} " + SPREAD + "."
        ),
        only=reduced,
        columns={
            "setting": plain("setting"),
            "top-1": rounded("top1", " %", 1),
            "leave after block 3 / 6 / 9": left_early,
            "GMACs": rounded("gmacs", decimals=3),
            "speed": measured("speedup"),
        },
        cpu=False,
    ),
}
