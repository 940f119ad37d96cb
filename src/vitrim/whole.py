"""Files and folders that appear whole or not at all, and temporary folders that no killed process leaves for long.

A temporary folder holds a file that its process keeps locked. The system drops the lock when the process ends, however
it ends, and whoever next makes such a folder in the same place removes those whose lock is free.
"""

from __future__ import annotations

import errno
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PREFIX, LOCK = "vitrim-", ".lock"
ADVICE = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "make room, or name another place"),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "name a place that you may write to"),
}


@contextmanager
def temporary_folder(beside: Path | None = None) -> Iterator[Path]:
    """A new folder, gone at the end: a hidden one in the folder `beside`, or one where the system has such things.

    What processes that were killed left of theirs in the same place is removed.
    """
    place = Path(tempfile.gettempdir()) if beside is None else beside
    prefix = PREFIX if beside is None else f".{PREFIX}"
    _remove_left(place, prefix)
    folder, lock = _make(place, prefix)
    try:
        yield folder
    finally:
        with suppress(OSError):
            _remove(folder)
        os.close(lock)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """An OSError inside becomes one that names the path and says what to do; what is there must be as it was."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        advice = ADVICE.get(error.errno or 0, "try again when this is put right")
        said = f"cannot be written ({reason}), what was there is as it was: {advice}"
        raise OSError(error.errno or errno.EIO, said, str(path)) from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file to write to, of the same suffix, which takes the path's place at the end; after any error it is gone.

    A link is replaced, and what it leads to left alone.
    """
    folder = path.absolute().parent
    with writing(path), temporary_folder(folder) as beside:
        new = beside / f"new{path.suffix}"
        yield new
        sync(new)
        os.replace(new, path)
        sync(folder)


def replace_file(path: Path, content: str | bytes) -> None:
    """Write a file so that at any moment the old or the new one is there, whole."""
    with replacing(path) as new:
        new.write_bytes(content.encode(errors="backslashreplace") if isinstance(content, str) else content)


def replace_folder(place: Path, new: Path) -> None:
    """Put a new folder in place of another, or of none; both are on one disk, and the old one is removed.

    On Linux and macOS the two are exchanged in one step. On disks that cannot do so there is a moment in which the old
    one is called .NAME.old; who replaces the folder next puts it back, had the process been killed just then.
    """
    old = place.with_name(f".{place.name}.old")
    if old.exists():
        shutil.rmtree(old) if place.exists() else os.rename(old, place)
    if not place.exists():
        os.rename(new, place)
    elif not _exchange(place, new):
        os.rename(place, old)
        try:
            os.rename(new, place)
        except OSError:
            os.rename(old, place)
            raise
        shutil.rmtree(old, ignore_errors=True)
    sync(place.parent)


def sync(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Create the folder if need be and keep other processes out of it; ValueError if one is at work there.

    The system drops the lock when its process ends, however it ends, so none is ever left behind; its file stays.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        file = open(folder / LOCK, "a+", encoding="utf-8", errors="replace")  # noqa: SIM115  (closed below)
    with file:
        if not _lock(file.fileno()):
            file.seek(0)
            owner = file.read(20).strip()
            owner = owner if owner.isdecimal() else "unknown"
            raise ValueError(f"another vitrim (process {owner}) is at work in the output folder {folder}.")
        with writing(folder / LOCK):  # past the file's buffer, which would try again when it is closed
            os.ftruncate(file.fileno(), 0)
            os.write(file.fileno(), str(os.getpid()).encode())
        yield


def _lock(descriptor: int) -> bool:
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
            if not _lock(lock) or not _is_there(lock, folder / LOCK):
                os.close(lock)
                continue
        return folder, lock


def _is_there(descriptor: int, path: Path) -> bool:
    return path.exists() and os.path.samestat(os.fstat(descriptor), path.stat())


def _remove_left(place: Path, prefix: str) -> None:
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
        if _lock(lock):
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


def _exchange(one: Path, other: Path) -> bool:
    """Let two folders change places in one step; False where system or disk cannot."""
    import ctypes

    library = ctypes.CDLL(None)
    paths = os.fsencode(one), os.fsencode(other)
    swap = 2  # RENAME_SWAP of macOS and RENAME_EXCHANGE of Linux
    if sys.platform == "darwin":
        return bool(library.renamex_np(*paths, swap) == 0)
    here = -100  # AT_FDCWD
    found = getattr(library, "renameat2", None)
    return found is not None and bool(found(here, paths[0], here, paths[1], swap) == 0)
