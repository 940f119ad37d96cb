"""Experiments as data, and the runner: cell by cell, each row saved at once, nothing measured twice."""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import timm
import torch

from vitrim.compare.environment import processor_name

from .rows import RESULTS, Row, append, files_of, read, written

Cell = argparse.Namespace  # all options, and one value of each axis


def machine(cell: Cell) -> dict[str, object]:
    """Identify the machine: rows of other versions, threads or processors are other rows."""
    return {"threads": cell.threads, "torch": torch.__version__, "timm": timm.__version__, "cpu": processor_name()}


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """The axes of an experiment, how to measure a cell, and the columns of a row.

    The command-line options have the names of the columns: `--batch 1 32`. With `--minutes`, no cell is begun later.
    """

    about: str  # for --help
    file: str  # file name with values of the cell, such as "speed_{on}_{dtype}"; on: "cpu2" or the device
    axes: Mapping[str, Sequence[Any]]  # column -> default values; a cell has one value of each
    measure: Callable[[Cell], Iterable[Mapping[str, object]]]  # yields rows, without the columns of axes and place
    together: Mapping[str, Sequence[Any]] = field(default_factory=dict)  # axes within a cell, one row per value
    options: Mapping[str, Any] = field(default_factory=dict)  # other options, with defaults
    choices: Mapping[str, Iterable[Any]] = field(default_factory=dict)
    applies: Callable[[Cell], bool] = lambda cell: True  # noqa: ARG005  whether the cell exists
    place: Callable[[Cell], Mapping[str, object]] = machine  # columns that identify the machine
    settles: Callable[[Row, Cell], bool] = lambda row, cell: True  # noqa: ARG005  whether an earlier row suffices
    holds: Callable[[Row], bool] = lambda row: True  # noqa: ARG005  False for a row that is a failure
    prepare: Callable[[Sequence[Cell]], None] = lambda cells: None  # noqa: ARG005  before the first cell
    order: Callable[[Cell], int] = lambda cell: 0  # noqa: ARG005  cells with the lowest come first


def run(experiment: Experiment, arguments: Sequence[str] | None = None) -> int:
    """Measure the cells without rows. Returns 1 if a row failed, else 0."""
    options = parse(experiment, arguments)
    if "threads" not in experiment.together:
        torch.set_num_threads(options.threads)
    cells, start = sorted(cells_of(experiment, options), key=experiment.order), time.monotonic()
    todo = [cell for cell in cells if options.again or not is_settled(experiment, cell)]
    for cell in cells:
        if cell not in todo:
            print(*values_of(cell, experiment.axes).values(), "already measured", sep="  ")
    if len(todo) < len(cells):
        print(f"{len(cells) - len(todo)} of {len(cells)} cells skipped; --again measures them again")
    experiment.prepare(todo)
    failed = 0
    for done, cell in enumerate(todo):
        if options.minutes and time.monotonic() - start > 60 * options.minutes:
            print(f"{len(todo) - done} cells are left after {options.minutes:g} minutes: the same command goes on")
            break
        own, place = values_of(cell, experiment.axes), experiment.place(cell)
        rows = [
            {name: str(value) for name, value in {**own, **written(row), **place}.items()}
            for row in experiment.measure(cell)
        ]
        for row in rows:
            print(*(value for value in row.values() if value != ""), sep="  ", flush=True)
        append(file_of(experiment, cell), rows, cell.results)
        failed += sum(not experiment.holds(row) for row in rows)
    if failed:
        print(f"{failed} rows failed")
    return 1 if failed else 0


def cells_of(experiment: Experiment, options: argparse.Namespace) -> Iterator[Cell]:
    """Yield a cell for each combination of axis values."""
    for values in itertools.product(*(getattr(options, axis) for axis in experiment.axes)):
        cell = Cell(**vars(options) | dict(zip(experiment.axes, values, strict=True)))
        if experiment.applies(cell):
            yield cell


def is_settled(experiment: Experiment, cell: Cell) -> bool:
    """Whether all rows of the cell exist, from the same machine. A refusal stands for all rows of its cell."""
    own = {**values_of(cell, experiment.axes), **experiment.place(cell)}
    there = [row for path in files_of(file_of(experiment, cell), cell.results) for row in read(path)]
    there = [row for row in there if fits(row, own) and experiment.settles(row, cell)]
    if any(not any(row.get(axis) for axis in experiment.together) for row in there):
        return True
    wanted = itertools.product(*(getattr(cell, axis) for axis in experiment.together))
    return all(any(fits(row, dict(zip(experiment.together, each, strict=True))) for row in there) for each in wanted)


def fits(row: Row, values: Mapping[str, object]) -> bool:
    """Whether a row has these values."""
    return all(row.get(name) == str(value) for name, value in values.items())


def file_of(experiment: Experiment, cell: Cell) -> str:
    """The file name for the rows of a cell, without version and date."""
    device = getattr(cell, "device", "cpu")
    return experiment.file.format(on=f"cpu{cell.threads}" if device == "cpu" else device, **vars(cell))


def values_of(cell: Cell, names: Iterable[str]) -> dict[str, object]:
    """Return some values of a cell, by name."""
    return {name: getattr(cell, name) for name in names}


def parse(experiment: Experiment, arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    name = experiment.measure.__module__.rpartition(".")[2]
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks {name}",
        description=experiment.about,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for name, values in {**experiment.axes, **experiment.together}.items():
        add(parser, name, type(values[0]), experiment, nargs="+", default=list(values))
    common = {"threads": torch.get_num_threads(), **experiment.options, "minutes": 0.0, "results": RESULTS}
    for name, value in common.items():
        if name not in experiment.together:
            add(parser, name, Path if name == "results" else type(value), experiment, default=value)
    parser.add_argument("--again", action="store_true", help="measure cells that already have rows")
    return parser.parse_args(arguments)


def add(parser: argparse.ArgumentParser, name: str, kind: type, experiment: Experiment, **settings: Any) -> None:
    choices = experiment.choices.get(name)
    settings |= {} if choices is None else {"choices": list(choices)}
    parser.add_argument(f"--{name.replace('_', '-')}", type=kind, **settings)
