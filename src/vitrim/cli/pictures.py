"""Images to draw: files that are named one by one, and folders of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from .values import whole

Pictures = Annotated[list[Path], typer.Argument(help="Image files, or folders of them.", show_default=False)]
OfFolder = Annotated[
    int, typer.Option("--limit", parser=whole(1), help="Of a folder, take so many images, evenly spread.")
]


def files(paths: Sequence[Path], limit: int) -> list[Path]:
    """The files that were named, and of each folder at most so many images."""
    from ..measure.images import list_files

    found = [list_files(path, limit) if path.is_dir() else (path,) for path in paths]
    return [file for each in found for file in each]
