"""Temporary folders that do not outlive a killed process for long.

Each holds a lock file. The system releases the lock when the process ends, however it ends. The next call in the same
place removes folders whose lock is free.
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
    """A new folder that is removed at the end: hidden in `beside`, or in the system's folder for temporary files.

    It also removes what killed processes left in the same place.
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
    """Lock an open file. False if another process holds the lock; OSError if the disk has no locks."""
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
        with suppress(OSError):  # without locks no process removes the folders of others
            if not lock_file(lock) or not _is_there(lock, folder / LOCK):
                os.close(lock)
                continue
        return folder, lock


def _is_there(descriptor: int, path: Path) -> bool:
    return path.exists() and os.path.samestat(os.fstat(descriptor), path.stat())


def remove_left(place: Path, prefix: str = f".{PREFIX}") -> None:
    """Remove temporary folders whose processes are gone."""
    with suppress(OSError):
        for folder in place.glob(prefix + "?" * 8):
            if folder.is_dir() and not folder.is_symlink():
                with suppress(OSError):
                    _remove_if_left(folder)


def _remove_if_left(folder: Path) -> None:
    try:
        lock = os.open(folder / LOCK, os.O_RDWR | os.O_NOFOLLOW)
    except FileNotFoundError:
        folder.rmdir()  # killed before there was a lock; rmdir keeps folders that are not empty
        return
    try:
        if lock_file(lock):
            _remove(folder)
    finally:
        os.close(lock)


def _remove(folder: Path) -> None:
    """Remove a folder, its lock last, so that an interrupted removal can be finished later."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != LOCK:
            path.unlink()
    (folder / LOCK).unlink()
    folder.rmdir()
