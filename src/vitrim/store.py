"""Atomic writing: files and folders appear whole or not at all.

New content is written to a temporary folder beside its target, synced, and renamed. The next writer into the same
folder removes what a killed process left (temporary.py).
"""

from __future__ import annotations

import errno
import os
import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from .temporary import LOCK, lock_file, temporary_folder

ADVICE = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "make room, or name another place"),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "name a place that you may write to"),
}


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an OSError inside into one that names the path and says what to do. The path must be unchanged."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        advice = ADVICE.get(error.errno or 0, "try again once this is fixed")
        said = f"cannot be written ({reason}), what was there is unchanged: {advice}"
        raise OSError(error.errno or errno.EIO, said, str(path)) from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A new file of the same suffix that replaces `path` at the end. After an error it is removed.

    A link is replaced, not its target.
    """
    folder = path.absolute().parent
    with writing(path), temporary_folder(folder) as beside:
        new = beside / f"new{path.suffix}"
        yield new
        sync(new)
        os.replace(new, path)
        sync(folder)


def replace_file(path: Path, content: str | bytes) -> None:
    """Write a file atomically: at any moment the whole old or the whole new one is there."""
    with replacing(path) as new:
        new.write_bytes(content.encode(errors="backslashreplace") if isinstance(content, str) else content)


def replace_files(new: Iterable[Path], folder: Path, stale: Iterable[Path] = ()) -> None:
    """Move files that belong together into a folder, all or none, and remove the stale ones.

    The folder must be on the same file system. Files of the same names are replaced. After an error everything is as it
    was.
    """
    moves = [(file, folder / file.name) for file in new]
    for file, _ in moves:
        sync(file)
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
    sync(folder)


def _aside(places: Iterable[Path], folder: Path) -> dict[Path, Path]:
    """Give every existing file a second name in a folder."""
    folder.mkdir()
    kept = {place: folder / place.name for place in places if place.is_file()}
    for place, second in kept.items():
        try:
            os.link(place, second)
        except OSError:  # a file system without links
            shutil.copy2(place, second)
    return kept


@contextmanager
def replacing_folder(place: Path) -> Iterator[Path]:
    """A new folder that replaces `place` at the end. After an error it is removed."""
    with temporary_folder(place.parent) as beside:
        new = beside / place.name
        new.mkdir()
        yield new
        for path in (*new.rglob("*"), new):
            sync(path)
        replace_folder(place, new)


def discard(folder: Path) -> None:
    """Remove a folder, so that a half removed one is never seen."""
    with temporary_folder(folder.parent) as beside:
        os.replace(folder, beside / folder.name)


def replace_folder(place: Path, new: Path) -> None:
    """Replace a folder, if it exists, by a new one on the same disk, and remove the old one.

    Linux and macOS exchange the two in one step. On disks that cannot do so the old one is called .NAME.old for a
    moment; if the process is killed just then, the next call puts it back.
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
    """Create the folder if needed and lock it against other processes. ValueError if one is at work there.

    The system releases the lock when the process ends, however it ends. The lock file stays.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        file = open(folder / LOCK, "a+", encoding="utf-8", errors="replace")  # noqa: SIM115  (closed below)
    with file:
        if not lock_file(file.fileno()):
            file.seek(0)
            owner = file.read(20).strip()
            owner = owner if owner.isdecimal() else "unknown"
            raise ValueError(f"another vitrim (process {owner}) is at work in the output folder {folder}.")
        with writing(folder / LOCK):  # not through the file's buffer, which would be written again when it is closed
            os.ftruncate(file.fileno(), 0)
            os.write(file.fileno(), str(os.getpid()).encode())
        yield


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two folders in one step. False if the system or the disk cannot."""
    import ctypes

    library = ctypes.CDLL(None)
    paths = os.fsencode(one), os.fsencode(other)
    swap = 2  # RENAME_SWAP of macOS and RENAME_EXCHANGE of Linux
    if sys.platform == "darwin":
        return bool(library.renamex_np(*paths, swap) == 0)
    here = -100  # AT_FDCWD
    found = getattr(library, "renameat2", None)
    return found is not None and bool(found(here, paths[0], here, paths[1], swap) == 0)
