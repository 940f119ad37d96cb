"""Images to draw, given as files and folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from .values import whole

Pictures = Annotated[list[Path], typer.Argument(help="Image files, or folders of them.", show_default=False)]
OfFolder = Annotated[int, typer.Option("--limit", parser=whole(1), help="Images to take from a folder, evenly spread.")]


def files(paths: Sequence[Path], limit: int) -> list[Path]:
    """Return the given files, and at most `limit` images of each given folder."""
    from ..measure.images import list_files

    found = [list_files(path, limit) if path.is_dir() else (path,) for path in paths]
    return [file for each in found for file in each]
