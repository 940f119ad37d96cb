"""Files of pictures: of the kinds that can be written, and whole or not there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .store import replacing

SUFFIXES = (".png", ".svg", ".pdf")


@contextmanager
def picture_file(path: Path | str) -> Iterator[Path]:
    """A file to write a picture to, which takes the path's place at the end; refuses other suffixes and no folder."""
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"a picture is written as {' or '.join(SUFFIXES)}, not as {path.name!r}.")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {str(path.parent)!r} to write {path.name} into.")
    with replacing(path) as new:
        yield new
