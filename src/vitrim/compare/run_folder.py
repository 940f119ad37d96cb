"""The output folder of a comparison: finished rows survive an interruption, and different runs never mix.

A folder belongs to one run: one model, weights, images and measuring settings. More rows can be added later. Every file
is replaced as a whole, so neither a reader nor a crash ever leaves half of one.
"""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Container, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from ..measure.turns import Spread, column_names, columns
from ..quantize import INT8
from ..store import replace_file
from ..text import shown
from .stored import PICTURES, check_row, read_stored, with_spread

RESULTS, TABLE, REPORT = "results.json", "results.csv", "report.html"
FILES = (RESULTS, TABLE, REPORT, PICTURES)
UNREDUCED = "unreduced"  # the method of the first row

Key = tuple[str, str]  # identifies a row within its run: the method, and its setting in words


@dataclass(frozen=True)
class Row:
    """One measured configuration: a line of results.csv."""

    method: str
    setting: str  # in words: "keep 0.7"; empty for the unreduced model
    settings: Mapping[str, Any]  # all settings of the method, resolved for the model
    top1: float  # percent
    top5: float  # percent
    drop: float  # points of top1 lost, relative to the unreduced model
    gmacs: float  # per image; for an input-adaptive method, the mean over some of the images
    mac_ratio: float  # multiply-adds of the unreduced model divided by these
    images_per_s: float
    speedup: Spread  # over the unreduced model, measured in turns with it
    latency_1_ms: float  # at batch size 1
    speedup_1: float
    peak_memory_mb: float | None
    tokens: Sequence[int]  # after each block, prefix included; for an input-adaptive method, means
    num_images: int
    skipped: int  # files that could not be read
    batch: int
    rounds: int
    dtype: str
    device: str
    versions: str
    seed: int
    precision: str = ""  # int8 or the dtype; missing in old files
    diversity: float | None = None  # relative, of the tokens after the last reducing block (BAT, eq. 4)
    preparation: str = ""  # preprocessing of the images; missing in old files
    labels: str = ""  # source of the labels: a table, folder numbers or names, or an assumed order

    def __post_init__(self) -> None:
        object.__setattr__(self, "precision", self.precision or self.dtype)

    @property
    def int8(self) -> bool:
        """Whether linear layers were quantized to int8."""
        return self.precision == INT8

    @property
    def key(self) -> Key:
        """The key of this row: ("evit", "keep 0.7"), or ("evit", "keep 0.7, int8")."""
        plain = (self.method, self.setting)
        return int8_key(plain) if self.int8 else plain


COLUMNS = tuple(
    name for each in fields(Row) for name in (column_names(each.name) if each.type == "Spread" else (each.name,))
)


@dataclass(frozen=True)
class Refusal:
    """A configuration that could not be measured, and the reason."""

    method: str
    setting: str
    reason: str

    @property
    def key(self) -> Key:
        """The key of the missing row."""
        return self.method, self.setting

    @property
    def not_measured(self) -> str:
        """Text to show instead of numbers."""
        return f"not measured: {self.reason}"


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

    def refusing(self, *refused: Refusal, but: Container[Key] = ()) -> Run:
        """Add these refusals, and remove those whose key is in `but`."""
        by_key = {each.key: each for each in (*self.refused, *refused)}
        return replace(self, refused=tuple(each for key, each in by_key.items() if key not in but))

    def row(self, key: Key) -> Row | None:
        """Return the finished row with this key, if there is one."""
        return next((row for row in self.rows if row.key == key), None)


def int8_key(key: Key) -> Key:
    """The key of the same row in int8."""
    return key[0], f"{key[1]}, {INT8}" if key[1] else INT8


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
    for name in (REPORT, TABLE, RESULTS):  # results.json, which marks a run, goes last
        (folder / name).unlink(missing_ok=True)


def read_run(path: Path) -> Run:
    """Read and check the run in a results.json."""
    try:
        content = read_stored(path)
        lists = {name: tuple(content[name]) for name in ("commands", "skipped_files", "pictures")}
        run = Run(**content | lists | {"rows": tuple(Row(**with_spread(row)) for row in content["rows"])})
        run = replace(run, refused=tuple(Refusal(**each) for each in content["refused"]))
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
    """Write results.json and results.csv, each as a whole. The first is what a run is known by, so it comes first."""
    content = asdict(run) | {"rows": [columns(asdict(row)) for row in run.rows]}
    replace_file(folder / RESULTS, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    replace_file(folder / TABLE, _csv(run))


def _csv(run: Run) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, [*COLUMNS, "reason"], lineterminator="\n")
    writer.writeheader()
    for row in run.rows:
        values = columns(asdict(row))
        values["settings"] = json.dumps(values["settings"])
        values["tokens"] = " ".join(map(str, row.tokens))
        writer.writerow(values)
    writer.writerows(asdict(each) for each in run.refused)
    return out.getvalue()
