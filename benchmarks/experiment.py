"""An experiment as data, and the one way to run it: cell by cell, rows appended at once, nothing measured twice."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import timm
import torch

from .rows import RESULTS, Row, append, cpu_name, files_of, read, written

Cell = argparse.Namespace  # every option, and of each axis one value


def machine(cell: Cell) -> dict[str, object]:
    """Where rows are measured: those of other versions, threads or processors are other rows."""
    return {"threads": cell.threads, "torch": torch.__version__, "timm": timm.__version__, "cpu": cpu_name()}


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """What is measured, along which axes, and what a row says.

    Options of the command line are called as the columns are: `--batch 1 32`.
    """

    about: str  # for --help
    file: str  # of the rows, with the cell's values; on: "cpu2", or the device. "speed_{on}_{dtype}"
    axes: Mapping[str, Sequence[Any]]  # column -> values by default; a cell has one of each
    measure: Callable[[Cell], Iterable[Mapping[str, object]]]  # its rows, without the columns of axes and place
    together: Mapping[str, Sequence[Any]] = field(default_factory=dict)  # axes of the rows of one cell
    options: Mapping[str, Any] = field(default_factory=dict)  # what is no axis, with its default
    choices: Mapping[str, Iterable[Any]] = field(default_factory=dict)
    applies: Callable[[Cell], bool] = lambda cell: True  # noqa: ARG005  whether there is such a cell
    place: Callable[[Cell], Mapping[str, object]] = machine  # columns that tell where
    settles: Callable[[Row, Cell], bool] = lambda row, cell: True  # noqa: ARG005  whether an earlier row is enough
    holds: Callable[[Row], bool] = lambda row: True  # noqa: ARG005  False for a row that is a failure
    prepare: Callable[[Sequence[Cell]], None] = lambda cells: None  # noqa: ARG005  before the first cell


def run(experiment: Experiment, arguments: Sequence[str] | None = None) -> int:
    """Measure the cells that have no rows yet. Returns 1 if a row does not hold, else 0."""
    options = parse(experiment, arguments)
    if "threads" not in experiment.together:
        torch.set_num_threads(options.threads)
    cells = list(cells_of(experiment, options))
    todo = [cell for cell in cells if options.again or not is_settled(experiment, cell)]
    for cell in cells:
        if cell not in todo:
            print(*values_of(cell, experiment.axes).values(), "has its rows already", sep="  ")
    if len(todo) < len(cells):
        print(f"{len(cells) - len(todo)} of {len(cells)} cells left out; --again measures them anew")
    experiment.prepare(todo)
    failed = 0
    for cell in todo:
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
        print(f"{failed} rows do not hold")
    return 1 if failed else 0


def cells_of(experiment: Experiment, options: argparse.Namespace) -> Iterator[Cell]:
    """One cell for each combination of the axes' values."""
    for values in itertools.product(*(getattr(options, axis) for axis in experiment.axes)):
        cell = Cell(**vars(options) | dict(zip(experiment.axes, values, strict=True)))
        if experiment.applies(cell):
            yield cell


def is_settled(experiment: Experiment, cell: Cell) -> bool:
    """Whether each row of the cell is there, measured in the same place; or one that stands for all, as refusals do."""
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
    """What the file of the cell's rows is called, without versions and day."""
    device = getattr(cell, "device", "cpu")
    return experiment.file.format(on=f"cpu{cell.threads}" if device == "cpu" else device, **vars(cell))


def values_of(cell: Cell, names: Iterable[str]) -> dict[str, object]:
    """Some of the cell's values."""
    return {name: getattr(cell, name) for name in names}


def parse(experiment: Experiment, arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    name = experiment.measure.__module__.rpartition(".")[2]
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks {name}",
        description=experiment.about,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for name, values in {**experiment.axes, **experiment.together}.items():
        add(parser, name, type(values[0]), experiment, nargs="+", default=list(values))
    common = {"threads": torch.get_num_threads(), **experiment.options, "results": RESULTS}
    for name, value in common.items():
        if name not in experiment.together:
            add(parser, name, Path if name == "results" else type(value), experiment, default=value)
    parser.add_argument("--again", action="store_true", help="measure what has rows already")
    return parser.parse_args(arguments)


def add(parser: argparse.ArgumentParser, name: str, kind: type, experiment: Experiment, **settings: Any) -> None:
    choices = experiment.choices.get(name)
    settings |= {} if choices is None else {"choices": list(choices)}
    parser.add_argument(f"--{name.replace('_', '-')}", type=kind, **settings)
