"""Files of the commands: images to draw, and results to write."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from .values import whole

Pictures = Annotated[list[Path], typer.Argument(help="Image files, or folders of them.", show_default=False)]
OfFolder = Annotated[int, typer.Option("--limit", parser=whole(1), help="Images to take from a folder, evenly spread.")]


def chosen(paths: Sequence[Path], limit: int) -> list[Path]:
    """Return the given files, and at most `limit` images of each given folder."""
    from ..measure.images import list_files

    found = [list_files(path, limit) if path.is_dir() else (path,) for path in paths]
    return [file for each in found for file in each]


def check_output(path: Path | None, *suffixes: str) -> None:
    """Raise ValueError now if a file of one of these kinds could not be written there later."""
    if path is not None and (path.suffix.lower() not in suffixes or not path.resolve().parent.is_dir()):
        raise ValueError(f"--output must be a {' or '.join(suffixes)} file in an existing folder, not {path}.")


def write_csv(path: Path | None, records: Sequence[Mapping[str, object]]) -> None:
    """Write records with the same fields as a table with a header, if there is a path."""
    from ..store import replace_file

    if path is None:
        return
    out = io.StringIO()
    writer = csv.DictWriter(out, list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    replace_file(path, out.getvalue())
