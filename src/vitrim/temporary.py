"""Temporary folders that no killed process leaves for long.

Such a folder holds a file that its process keeps locked. The system drops the lock when the process ends, however it
ends, and whoever next makes such a folder in the same place removes those whose lock is free.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PREFIX, LOCK = "vitrim-", ".lock"


@contextmanager
def temporary_folder(beside: Path | None = None) -> Iterator[Path]:
    """A new folder, gone at the end: a hidden one in the folder `beside`, or one where the system has such things.

    What processes that were killed left of theirs in the same place is removed.
    """
    place = Path(tempfile.gettempdir()) if beside is None else beside
    prefix = PREFIX if beside is None else f".{PREFIX}"
    remove_left(place, prefix)
    folder, lock = _make(place, prefix)
    try:
        yield folder
    finally:
        with suppress(OSError):
            _remove(folder)
        os.close(lock)


def lock_file(descriptor: int) -> bool:
    """Lock an open file, or say that another process has; OSError where the disk has no locks."""
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _make(place: Path, prefix: str) -> tuple[Path, int]:
    """A new folder and the descriptor of its lock."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=place))
        try:
            lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        except FileNotFoundError:
            continue  # another process took the empty folder for one left behind
        with suppress(OSError):  # without locks none is removed by others, either
            if not lock_file(lock) or not _is_there(lock, folder / LOCK):
                os.close(lock)
                continue
        return folder, lock


def _is_there(descriptor: int, path: Path) -> bool:
    return path.exists() and os.path.samestat(os.fstat(descriptor), path.stat())


def remove_left(place: Path, prefix: str = f".{PREFIX}") -> None:
    """Remove the temporary folders in that place whose processes are gone."""
    with suppress(OSError):
        for folder in place.glob(prefix + "?" * 8):
            if folder.is_dir() and not folder.is_symlink():
                with suppress(OSError):
                    _remove_if_left(folder)


def _remove_if_left(folder: Path) -> None:
    try:
        lock = os.open(folder / LOCK, os.O_RDWR | os.O_NOFOLLOW)
    except FileNotFoundError:
        folder.rmdir()  # killed before there was a lock; what is not empty is none of ours, and stays
        return
    try:
        if lock_file(lock):
            _remove(folder)
    finally:
        os.close(lock)


def _remove(folder: Path) -> None:
    """The lock last: a folder whose removal was interrupted is still known as ours."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != LOCK:
            path.unlink()
    (folder / LOCK).unlink()
    folder.rmdir()
