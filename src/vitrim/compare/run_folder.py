"""The output folder of one comparison: finished rows survive an interruption, and two runs never mix.

A folder belongs to one run: the same model, weights, images and way of measuring. Rows can be added to it later,
in the same way. Every file is replaced as a whole, so a reader or a crash never meets half of one.
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

Key = tuple[str, str]  # what tells a row from others of its run: the method, and how it is set, in words


@dataclass(frozen=True)
class Row:
    """One measured configuration: a line of results.csv."""

    method: str
    setting: str  # in words: "keep 0.7"; empty for the unreduced model
    settings: Mapping[str, Any]  # of the method, all of them, as resolved for the model
    top1: float  # per cent
    top5: float  # per cent
    drop: float  # points of top1 lost against the unreduced model
    gmacs: float  # of an image; the mean over some of the images where they differ
    mac_ratio: float  # multiply-adds of the unreduced model over these
    images_per_s: float
    speedup: Spread  # over the unreduced model, measured in turns with it
    latency_1_ms: float  # one image at a time
    speedup_1: float
    peak_memory_mb: float | None
    tokens: Sequence[int]  # that leave each block, class token and the like included; means where images differ
    num_images: int
    skipped: int  # files that are no images
    batch: int
    rounds: int
    dtype: str
    device: str
    versions: str
    seed: int
    precision: str = ""  # int8, or as dtype says; rows of before there was int8 do not tell
    diversity: float | None = None  # of the tokens that leave the last reducing block (BAT, eq. 4), relative
    preparation: str = ""  # how images became the model's input; rows of before it was told do not tell
    labels: str = ""  # where the labels come from: a table, numbers or names of folders, or an assumed order

    def __post_init__(self) -> None:
        object.__setattr__(self, "precision", self.precision or self.dtype)

    @property
    def int8(self) -> bool:
        """Whether linear layers computed in 8-bit integers."""
        return self.precision == INT8

    @property
    def key(self) -> Key:
        """What makes it a row of its own within one run: ("evit", "keep 0.7"), or ("evit", "keep 0.7, int8")."""
        plain = (self.method, self.setting)
        return int8_key(plain) if self.int8 else plain


COLUMNS = tuple(
    name for each in fields(Row) for name in (column_names(each.name) if each.type == "Spread" else (each.name,))
)


@dataclass(frozen=True)
class Refusal:
    """A configuration that could not be measured, and why, in a sentence."""

    method: str
    setting: str
    reason: str

    @property
    def key(self) -> Key:
        """What it would have as a row."""
        return self.method, self.setting

    @property
    def not_measured(self) -> str:
        """What stands in the place of numbers."""
        return f"not measured: {self.reason}"


@dataclass(frozen=True)
class Run:
    """Everything that results.json holds."""

    identity: Mapping[str, Any]  # what all rows share; another identity is another run
    environment: Mapping[str, str]
    commands: Sequence[str]
    rows: Sequence[Row] = ()
    skipped_files: Sequence[str] = ()
    pictures: Sequence[Mapping[str, Any]] = field(default=())
    assumption: str = ""  # a sentence on the order of the classes, if it was assumed
    refused: Sequence[Refusal] = ()  # configurations that could not be measured

    def refusing(self, *refused: Refusal, but: Container[Key] = ()) -> Run:
        """The same with these refused too, and those of certain keys no longer."""
        by_key = {each.key: each for each in (*self.refused, *refused)}
        return replace(self, refused=tuple(each for key, each in by_key.items() if key not in but))

    def row(self, key: Key) -> Row | None:
        """The finished row of that configuration."""
        return next((row for row in self.rows if row.key == key), None)


def int8_key(key: Key) -> Key:
    """Of the row that measures the same in int8."""
    return key[0], f"{key[1]}, {INT8}" if key[1] else INT8


def check_output(folder: Path) -> None:
    """ValueError if the folder cannot become or be the output of a run; creates nothing."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"the output {folder} is a file: name a folder.")
    if not folder.is_dir() or (folder / RESULTS).exists():
        return
    if any(not path.name.startswith(".") for path in folder.iterdir()):
        raise ValueError(f"the output folder {folder} holds files, but no {RESULTS} of an earlier run: name a new one.")


def open_run(
    folder: Path, identity: Mapping[str, Any], environment: Mapping[str, str], command: str, *, replaces: bool = False
) -> Run:
    """The run in that folder, or a new one; ValueError naming the first difference if it is another run.

    replaces: the other run is removed instead.
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
                f"the output folder {folder} holds another run: its {name} is {shown(there)}, and now it is "
                f"{shown(here)}; name another folder, or pass --replace to remove that run."
            )


def _remove_run(folder: Path) -> None:
    """Remove what a run left in its folder; ValueError if there is anything else."""
    others = sorted(path.name for path in folder.iterdir() if path.name not in FILES and not path.name.startswith("."))
    if others:
        raise ValueError(f"{folder} holds {shown(others[0])} beside the run to be replaced: name another folder.")
    if (folder / PICTURES).is_symlink() or not (folder / PICTURES).is_dir():
        (folder / PICTURES).unlink(missing_ok=True)
    else:
        shutil.rmtree(folder / PICTURES)
    for name in (REPORT, TABLE, RESULTS):  # the last is what it is known by
        (folder / name).unlink(missing_ok=True)


def read_run(path: Path) -> Run:
    """The run in a results.json."""
    try:
        content = read_stored(path)
        lists = {name: tuple(content[name]) for name in ("commands", "skipped_files", "pictures")}
        run = Run(**content | lists | {"rows": tuple(Row(**with_spread(row)) for row in content["rows"])})
        run = replace(run, refused=tuple(Refusal(**each) for each in content["refused"]))
        for row in run.rows:
            check_row(row)
        if len({row.key for row in run.rows}) < len(run.rows):
            raise ValueError("two of its rows are the same")
    except (ValueError, TypeError) as error:
        reason = shown(error).rstrip(".")
        raise ValueError(
            f"{path} was not written by this version of vitrim ({reason}): name another output folder, or pass "
            "--replace to remove that run."
        ) from error
    return run


def write_run(folder: Path, run: Run) -> None:
    """results.json and results.csv, each replaced as a whole."""
    replace_file(folder / TABLE, _csv(run))
    content = asdict(run) | {"rows": [columns(asdict(row)) for row in run.rows]}
    replace_file(folder / RESULTS, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


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
