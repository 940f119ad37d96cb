"""The output folder of a comparison: finished rows survive an interruption, and different runs never mix.

A folder belongs to one run: one model, weights, images and measuring settings. More rows can be added later. Every file
is replaced as a whole, so neither a reader nor a crash ever leaves half of one.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Container, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ..measure.turns import columns
from ..store import replace_file
from ..text import shown
from .predictions import PREDICTIONS, Predictions, read_predictions
from .row import Key, Refusal, Row
from .stored import PICTURES, check_row, read_stored, with_spreads
from .table_file import table_text

RESULTS, TABLE, REPORT = "results.json", "results.csv", "report.html"
FILES = (RESULTS, TABLE, PREDICTIONS, REPORT, PICTURES)


@dataclass(frozen=True)
class Run:
    """The content of results.json."""

    identity: Mapping[str, Any]  # shared by all rows (identity.py)
    environment: Mapping[str, str]
    commands: Sequence[str]
    rows: Sequence[Row] = ()
    skipped_files: Sequence[str] = ()
    pictures: Sequence[Mapping[str, Any]] = field(default=())
    assumption: str = ""  # a sentence on assumed defaults, such as the order of the classes
    refused: Sequence[Refusal] = ()  # configurations that could not be measured
    classes: Mapping[str, str] = field(default_factory=dict)  # names of the classes of predictions.csv, by number
    predictions: Predictions = field(default=Predictions(), compare=False)

    def refusing(self, *refused: Refusal, but: Container[Key] = ()) -> Run:
        """Add these refusals, and remove those whose key is in `but`."""
        by_key = {each.key: each for each in (*self.refused, *refused)}
        return replace(self, refused=tuple(each for key, each in by_key.items() if key not in but))

    def row(self, key: Key) -> Row | None:
        """Return the finished row with this key, if there is one."""
        return next((row for row in self.rows if row.key == key), None)


def check_output(folder: Path) -> None:
    """Raise ValueError if the folder cannot be the output of a run. Creates nothing."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"the output {folder} is a file: pass a folder.")
    if not folder.is_dir() or (folder / RESULTS).exists():
        return
    if any(not path.name.startswith(".") for path in folder.iterdir()):
        raise ValueError(f"the output folder {folder} holds files, but no {RESULTS} of an earlier run: pass a new one.")


def open_run(
    folder: Path, identity: Mapping[str, Any], environment: Mapping[str, str], command: str, *, replaces: bool = False
) -> Run:
    """Return the run in this folder, or a new one.

    Raises ValueError with the first difference if the folder holds another run. replaces: remove that run instead.
    """
    path = folder / RESULTS
    if not path.exists():
        return Run(identity, environment, (command,))
    try:
        run = read_run(path)
        _check_same(folder, run, identity)
    except ValueError:
        if not replaces:
            raise
        _remove_run(folder)
        return Run(identity, environment, (command,))
    commands = run.commands if command in run.commands else (*run.commands, command)
    return replace(run, environment=environment, commands=commands)


def _check_same(folder: Path, run: Run, identity: Mapping[str, Any]) -> None:
    for name in {**identity, **run.identity}:
        there, here = run.identity.get(name), identity.get(name)
        if there != here:
            raise ValueError(
                f"the output folder {folder} holds another run: its {name} is {shown(there)}, not {shown(here)}. Pass "
                "another folder, or --replace to remove that run."
            )


def _remove_run(folder: Path) -> None:
    """Remove the files of a run. Raises ValueError if the folder holds anything else."""
    others = sorted(path.name for path in folder.iterdir() if path.name not in FILES and not path.name.startswith("."))
    if others:
        raise ValueError(f"{folder} also holds {shown(others[0])}, so its run is not removed: pass another folder.")
    if (folder / PICTURES).is_symlink() or not (folder / PICTURES).is_dir():
        (folder / PICTURES).unlink(missing_ok=True)
    else:
        shutil.rmtree(folder / PICTURES)
    for name in (REPORT, TABLE, PREDICTIONS, RESULTS):  # results.json, which marks a run, goes last
        (folder / name).unlink(missing_ok=True)


def read_run(path: Path) -> Run:
    """Read and check the run in a results.json."""
    try:
        content = read_stored(path)
        lists = {name: tuple(content[name]) for name in ("commands", "skipped_files", "pictures")}
        run = Run(**content | lists | {"rows": tuple(Row(**with_spreads(row)) for row in content["rows"])})
        predictions = read_predictions(path.with_name(PREDICTIONS))
        refused = tuple(Refusal(**each) for each in content["refused"])
        run = replace(run, refused=refused, predictions=predictions)
        for row in run.rows:
            check_row(row)
        if len({row.key for row in run.rows}) < len(run.rows):
            raise ValueError("two rows have the same key")
    except (ValueError, TypeError) as error:
        reason = shown(error).rstrip(".")
        raise ValueError(
            f"{path} was not written by this version of vitrim ({reason}): pass another output folder, or --replace "
            "to remove that run."
        ) from error
    return run


def write_run(folder: Path, run: Run) -> None:
    """Write results.json, predictions.csv and results.csv, each as a whole.

    The first is what a run is known by, so it comes first.
    """
    content = asdict(replace(run, predictions=Predictions())) | {"rows": [columns(asdict(row)) for row in run.rows]}
    del content["predictions"]
    replace_file(folder / RESULTS, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    if run.predictions.rows:
        replace_file(folder / PREDICTIONS, run.predictions.text())
    replace_file(folder / TABLE, table_text(run.rows, run.refused))
