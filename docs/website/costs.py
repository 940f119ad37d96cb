"""What was measured of a method: its rows of results/, as tables."""

from __future__ import annotations

import csv
from pathlib import Path

from . import ROOT
from .facts import Facts

RESULTS = ROOT / "results"
Row = dict[str, str]


def costs(facts: Facts, results: Path = RESULTS) -> list[str]:
    """A section for each file of rows that has some of the method."""
    sections = []
    for pattern, title, table in (
        ("accuracy_*.csv", "Accuracy, without any training", _accuracy),
        ("league_accuracy_*.csv", "In the league: off the shelf, at equal multiply-adds", _league),
        ("speed_*.csv", "Speed of a forward", _speed),
        ("training_speed_*.csv", "Speed of a training update", _speed),
        ("export_speed_*.csv", "Speed of exported models, over the unreduced model exported", _speed),
    ):
        path = max(results.glob(pattern), key=lambda path: path.stem[-10:], default=None)
        rows = [row for row in _read(path) if is_of(row["method"], facts)] if path else []
        if path and rows:
            link = f"Rows: [{path.name}](results/{path.name}){_machine(rows[0])}."
            sections.append("\n".join([f"### {title}\n", *table(rows), "", link]))
    return sections


def is_of(label: str, facts: Facts) -> bool:
    """Whether a row's method is this one: the label is a name of it, or begins with one, 'EViT 0.7, no fusion'."""
    known = {facts.name, *facts.others, *map(str.lower, facts.public), facts.home.__name__.lower()}
    return label.lower() in known or label.partition(" ")[0].lower() in known


def _accuracy(rows: list[Row]) -> list[str]:
    lines = [
        f"DeiT-Tiny on {rows[0]['num_images']} ImageNet validation images.\n",
        "| method | setting | top-1 lost, points | GMACs | MAC ratio |",
        "|---|---|---|---|---|",
    ]
    for row in sorted(rows, key=lambda row: (row["method"], float(row["drop"]))):
        numbers = f"{float(row['drop']):.1f} | {float(row['gmacs']):.2f} | {float(row['mac_ratio']):.2f}"
        lines.append(f"| `{row['method']}` | {row['setting']} | {numbers} |")
    return lines


def _league(rows: list[Row]) -> list[str]:
    last = {(row["method"], float(row["target"])): row for row in rows}
    lines = [
        "DeiT-Tiny on ImageNet validation images, against the unreduced model ([all methods](docs/league.md)).\n",
        "| method | times fewer multiply-adds | top-1 lost, points (95 % interval) | images |",
        "|---|---|---|---|",
    ]
    for (name, ratio), row in sorted(last.items()):
        numbers = [f"{float(row[key] or 0):.1f}" for key in ("lost_points", "interval_low", "interval_high")]
        cell = "{} ({} to {})".format(*numbers) if row["lost_points"] else row["reason"]
        lines.append(f"| `{name}` | {ratio:g} | {cell} | {row['num_images']} |")
    return lines


def _speed(rows: list[Row]) -> list[str]:
    cell = ("route", "model", "method", "batch", "dtype")
    rows = list({tuple(row.get(key) for key in cell): row for row in rows}.values())  # of one cell, the last row
    lines = [
        f"Over the unreduced model, {rows[0]['threads']} CPU threads; median of rounds (10th to 90th percentile).\n",
        "| model | setting | batch | MAC ratio | speed-up |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        where = ", ".join(filter(None, (row["model"].removesuffix("_patch16_224"), row.get("route"))))
        speed = f"**{float(row['speedup']):.2f}** ({float(row['speedup_p10']):.2f} to {float(row['speedup_p90']):.2f})"
        lines.append(f"| {where} | {row['method']} | {row['batch']} | {float(row['mac_ratio']):.2f} | {speed} |")
    return lines


def _machine(row: Row) -> str:
    return f", {row['cpu']}" if row.get("cpu") else ""


def _read(path: Path) -> list[Row]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))
