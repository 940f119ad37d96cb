"""Files that belong together come into place together, or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path


def put_in_place(new: Iterable[Path], folder: Path, stale: Iterable[Path] = ()) -> None:
    """Move files into a folder of the same file system, over those of their names, and remove the stale ones.

    If anything fails on the way, what was there before is put back as it was.
    """
    moves = [(file, folder / file.name) for file in new]
    before = _aside([*(place for _, place in moves), *stale], moves[0][0].parent / "before")
    try:
        for file, place in moves:
            file.replace(place)
        for file in stale:
            file.unlink(missing_ok=True)
    except BaseException:
        for place in (place for file, place in moves if not file.exists()):
            place.unlink()
        for place, kept in before.items():
            kept.replace(place)
        raise


def _aside(places: Iterable[Path], folder: Path) -> dict[Path, Path]:
    """A second name, in that folder, for every file that is there now."""
    folder.mkdir()
    kept = {place: folder / place.name for place in places if place.is_file()}
    for place, second in kept.items():
        try:
            os.link(place, second)
        except OSError:  # a file system without links
            shutil.copy2(place, second)
    return kept
