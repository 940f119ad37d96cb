"""Several runs of `vitrim compare` as one, where they measured the same model on the same images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from ..text import shown
from .predictions import Predictions
from .row import Row
from .run_folder import RESULTS, Run, read_run

SAME = ("model", "weights", "image size", "number of images", "images", "labels", "preparation", "bad images")


def read_runs(folders: Sequence[Path]) -> tuple[Run, list[str]]:
    """The runs in these folders as one, and notes on how they differ.

    A later row replaces an earlier one with the same key. Where runs were measured under other conditions, such as the
    batch size, their rows say so.

    Raises:
        ValueError: A folder holds no run, or another model or other images than the first.
    """
    runs = [_read(folder) for folder in folders]
    for folder, run in zip(folders[1:], runs[1:], strict=True):
        _check_same(folders[0], runs[0], folder, run)
    if len(runs) == 1:
        return runs[0], []
    names = [name for name in runs[0].identity if len({str(run.identity.get(name)) for run in runs}) > 1]
    labels = [_label(run, names if i else ()) for i, run in enumerate(runs)]
    marked = [_marked(run, label, i) for i, (run, label) in enumerate(zip(runs, labels, strict=True))]
    return _joined(marked), list(_notes(runs, names, marked))


def _read(folder: Path) -> Run:
    if not (folder / RESULTS).is_file():
        what = f"no {RESULTS}" if folder.is_dir() else "no such folder"
        raise ValueError(f"{folder}: {what}; name the output folder of a vitrim compare.")
    run = read_run(folder / RESULTS)
    if not run.rows:
        raise ValueError(f"{folder}: no row is finished yet.")
    return run


def _check_same(first_folder: Path, first: Run, folder: Path, run: Run) -> None:
    for name in SAME:
        one, other = first.identity.get(name), run.identity.get(name)
        if one != other:
            raise ValueError(
                f"{folder} cannot be compared with {first_folder}: its {name} is {shown(other, 60)}, not "
                f"{shown(one, 60)}."
            )


def _label(run: Run, names: Sequence[str]) -> str:
    """The conditions that set a run apart, in words."""
    return ", ".join(f"{name} {shown(run.identity.get(name), 40)}" for name in names if name not in SAME)


def _marked(run: Run, label: str, number: int) -> Run:
    """A run whose rows tell its conditions, and whose pictures tell its place among the folders."""
    ends = f"[{label}]" if label else ""
    rows = tuple(replace(row, setting=f"{row.setting} {ends}".strip()) for row in run.rows)
    names = {old.name: new.name for old, new in zip(run.rows, rows, strict=True)}
    predicted = {names.get(name, name): each for name, each in run.predictions.rows.items()}
    return replace(
        run,
        rows=rows,
        pictures=tuple(_placed(sample, number) for sample in run.pictures),
        predictions=replace(run.predictions, rows=predicted),
    )


def _placed(sample: Mapping[str, Any], number: int) -> dict[str, Any]:
    tracks = [{**track, "folder": number} for track in sample["tracks"]]
    return {**sample, "folder": number, "tracks": tracks}


def _joined(runs: Sequence[Run]) -> Run:
    first = runs[0]
    rows = {row.key: row for run in runs for row in run.rows}
    rows = {first.rows[0].key: first.rows[0]} | rows if first.rows[0].key not in rows else rows
    return replace(
        first,
        commands=tuple(dict.fromkeys(chain.from_iterable(run.commands for run in runs))),
        rows=_in_order(list(rows.values())),
        skipped_files=tuple(dict.fromkeys(chain.from_iterable(run.skipped_files for run in runs))),
        pictures=_pictures(runs),
        assumption=" ".join(dict.fromkeys(filter(None, (run.assumption for run in runs)))),
        refused=tuple({each.key: each for run in runs for each in run.refused if each.key not in rows}.values()),
        classes={number: name for run in runs for number, name in run.classes.items()},
        predictions=_predictions(runs),
    )


def _in_order(rows: Sequence[Row]) -> tuple[Row, ...]:
    """Rows of one method together, in order of first appearance. The first stays first."""
    methods = list(dict.fromkeys(row.method for row in rows[1:]))
    return (rows[0], *sorted(rows[1:], key=lambda row: methods.index(row.method)))


def _pictures(runs: Sequence[Run]) -> tuple[dict[str, Any], ...]:
    """The first run's images with the tracks of all, a method once."""
    samples = [dict(sample) for sample in runs[0].pictures]
    for run in runs[1:]:
        others = {sample["name"]: sample for sample in run.pictures}
        for sample in samples:
            known = {track["method"] for track in sample["tracks"]}
            more = others.get(sample["name"], {"tracks": ()})["tracks"]
            sample["tracks"] = [*sample["tracks"], *(track for track in more if track["method"] not in known)]
    return tuple(samples)


def _predictions(runs: Sequence[Run]) -> Predictions:
    first = runs[0].predictions
    rows = {
        name: each
        for run in runs
        for name, each in run.predictions.rows.items()
        if run.predictions.labels == first.labels
    }
    return replace(first, rows=rows)


def _notes(runs: Sequence[Run], names: Sequence[str], marked: Sequence[Run]) -> list[str]:
    notes = []
    if names:
        notes.append(f"{len(runs)} runs are joined. Rows without brackets were measured with {_label(runs[0], names)}.")
    keys = [row.key for run in marked for row in run.rows if row.setting]
    repeated = len(keys) - len(set(keys))
    if repeated:
        notes.append(f"{repeated} rows were measured in more than one run; the last one is shown.")
    return notes
