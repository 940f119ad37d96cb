"""Picture files of known formats, written whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .store import replacing

SUFFIXES = (".png", ".svg", ".pdf")


@contextmanager
def picture_file(path: Path | str) -> Iterator[Path]:
    """A file that replaces `path` at the end. Refuses unknown suffixes and missing folders."""
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"a picture must be a {' or '.join(SUFFIXES)} file, not {path.name!r}.")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {str(path.parent)!r} to write {path.name} into.")
    with replacing(path) as new:
        yield new
