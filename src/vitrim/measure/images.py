"""Labelled images of a folder, each with the index of its class.

There are two layouts: a labels.csv (header file,label; files relative to the folder or to its images/ folder), or one
sub-folder per class. A folder named by a number is that class. Other folders are matched with the class names of the
model, or with classes.txt. If nothing matches, their sorted order is assumed, with a note.
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from ..kinds import is_whole
from ..text import shown
from .class_folders import ADVICE, class_index
from .class_names import WNID, ClassNames, imagenet_names, whole_number, with_wordnet_ids
from .pixels import SUFFIXES, ImageDataError, images_below, is_hidden, open_image

__all__ = ["SUFFIXES", "ImageDataError", "LabelledImages", "class_folders", "list_files", "list_images", "open_image"]

T = TypeVar("T")
SPLITS = frozenset(("train", "val", "valid", "validation", "test"))
TABLE, HEADER = "labels.csv", ["file", "label"]
NAME_FILES = ("classes.txt", "synset_words.txt")


@dataclass(frozen=True)
class LabelledImages:
    """Image files and the class index of each, sorted by class, then by name."""

    folder: Path
    files: tuple[Path, ...]
    labels: tuple[int, ...]
    class_names: tuple[str, ...] | None  # one per class of the model; None if unknown
    labels_by: str = ""  # source of the labels, in words
    assumed: bool = False  # whether the sorted order of the folders is assumed to be that of the classes

    def __len__(self) -> int:
        return len(self.files)

    def name(self, index: int) -> str:
        """The path of a file relative to the folder."""
        file = self.files[index]
        return file.relative_to(self.folder).as_posix() if file.is_relative_to(self.folder) else str(file)

    @property
    def assumption(self) -> str:
        """A sentence, if the order of the classes is assumed; otherwise empty."""
        if not self.assumed or self.class_names is None:
            return ""
        some = ", ".join(self.class_names[:3]) + (", ..." if len(self.class_names) > 3 else "")
        return (
            f"the order of the classes is assumed: the sorted folders ({some}) are taken as classes 0 to "
            f"{len(self.class_names) - 1}. If the model has another order, {ADVICE}."
        )


def list_images(
    folder: Path | str, num_classes: int, limit: int | None = None, *, names: ClassNames | None = None
) -> LabelledImages:
    """List the labelled images of a folder, for a model with num_classes classes.

    Args:
        limit: maximal number of images, evenly spaced over the images sorted by class. The choice is always the same.
        names: the class names of the model (`class_names_of`). Default: ImageNet's, if there are as many.
    """
    _check_limit(limit)
    folder = Path(folder)
    _check_folder(folder)
    known = imagenet_names(num_classes) if names is None else names
    if _beside(folder, TABLE):
        listed = _listed_names(folder, num_classes, known, strict=True)
        found, named = _from_table(folder, num_classes, known or listed), listed or known
        class_names, source, assumed = (None if named is None else named.names), "labels.csv", False
    else:
        listed = _listed_names(folder, num_classes, known, strict=False)
        classes, images = class_folders(folder)
        index, class_names, source, assumed = class_index(folder, classes, images, num_classes, listed or known)
        found = [(file, index[name]) for name in classes for file in images[name]]
    found = _spaced(sorted(found, key=lambda pair: (pair[1], str(pair[0]))), limit)
    files, labels = zip(*found, strict=True)
    return LabelledImages(folder, files, labels, class_names, source, assumed)


def has_labels(folder: Path | str) -> bool:
    """Whether the images of a folder have labels: a labels.csv, or sub-folders of images."""
    folder = Path(folder)
    _check_folder(folder)
    inside = (path for path in folder.iterdir() if path.is_dir() and not is_hidden(path.name))
    return _beside(folder, TABLE) is not None or any(images_below(path) for path in inside)


def unlabelled(folder: Path | str, limit: int | None = None) -> LabelledImages:
    """List all images below a folder, with label -1."""
    files = list_files(folder, limit)
    return LabelledImages(Path(folder), files, (-1,) * len(files), None)


def list_files(folder: Path | str, limit: int | None = None) -> tuple[Path, ...]:
    """List at most `limit` image files below a folder, evenly spaced over their sorted paths."""
    _check_limit(limit)
    folder = Path(folder)
    _check_folder(folder)
    found = sorted(images_below(folder))
    if not found:
        raise ImageDataError(f"{folder} holds no images.")
    return tuple(_spaced(found, limit))


def _spaced(found: list[T], limit: int | None) -> list[T]:
    """Choose at most `limit`, evenly spaced."""
    if limit is None or limit >= len(found):
        return found
    return [found[i * len(found) // limit] for i in range(limit)]


def _check_limit(limit: int | None) -> None:
    if limit is not None and not is_whole(limit, 1):
        raise ValueError(f"the limit on images must be a whole number of at least 1, not {limit!r}.")


def _check_folder(folder: Path) -> None:
    if not folder.exists():
        raise ImageDataError(f"there is no folder {folder}.")
    if not folder.is_dir():
        raise ImageDataError(f"{folder} is a file: pass a folder of images (unpack an archive first).")


def _beside(folder: Path, name: str) -> Path | None:
    """Find a file beside the images. None if there is none. ImageDataError for a broken link, a folder or a pipe."""
    file = folder / name
    if file.is_symlink() and not file.exists():
        raise ImageDataError(f"{file} is a broken link: repair or remove it.")
    if file.exists() and not file.is_file():
        raise ImageDataError(f"{file} is {'a folder' if file.is_dir() else 'a pipe or a device'}, not a text file.")
    return file if file.exists() else None


def _from_table(folder: Path, num_classes: int, names: ClassNames | None) -> list[tuple[Path, int]]:
    table = folder / TABLE
    rows = _read_rows(table)
    header = [cell.strip() for cell in rows[0][1]] if rows else []
    if header != HEADER:
        raise ImageDataError(f"{table} must begin with the line file,label, not {','.join(header)!r}.")
    found: list[tuple[Path, int]] = []
    first_line: dict[str, int] = {}
    for line, row in rows[1:]:
        file, label = _check_row(row, num_classes, names, f"{table}, line {line}")
        path = next((path for path in (folder / file, folder / "images" / file) if path.is_file()), None)
        if path is None:
            raise ImageDataError(f"{table}, line {line}: there is no file {file} in {folder} or its folder images.")
        before = first_line.setdefault(os.path.normpath(path), line)
        if before != line:
            raise ImageDataError(f"{table}, line {line}: {file} is already listed in line {before}.")
        found.append((path, label))
    if not found:
        raise ImageDataError(f"{table} lists no images.")
    return found


def _read_rows(table: Path) -> list[tuple[int, list[str]]]:
    """Read the non-empty rows, each with its line number."""
    try:
        with table.open(newline="", encoding="utf-8-sig") as lines:
            reader = csv.reader(lines)
            return [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ImageDataError(f"{table} is not a table in UTF-8 text ({error}).") from error


def _check_row(row: Sequence[str], num_classes: int, names: ClassNames | None, where: str) -> tuple[str, int]:
    if len(row) != len(HEADER):
        raise ImageDataError(f"{where}: wanted a file and a label, not {len(row)} entries: {','.join(row)!r}.")
    file, label = (cell.strip() for cell in row)
    index = whole_number(label)
    if index is None and names is not None and label:
        index = names.find(label)
    if index is None or index >= num_classes:
        raise ImageDataError(
            f"{where}: the label of {file} is {shown(repr(label), 60)}, but the classes of the model are the whole "
            f"numbers 0 to {num_classes - 1}."
        )
    return file, index


def _listed_names(folder: Path, num_classes: int, known: ClassNames | None, *, strict: bool) -> ClassNames | None:
    """Read classes.txt or synset_words.txt. None without one, or, unless strict, if the number of lines differs."""
    file = next(filter(None, (_beside(folder, name) for name in NAME_FILES)), None)
    if file is None:
        return None
    lines = file.read_text(encoding="utf-8-sig", errors="replace").strip("\r\n").splitlines()
    if len(lines) != num_classes:
        if not strict:
            return None
        raise ImageDataError(f"{file} names {len(lines)} classes, one per line, but the model has {num_classes}.")
    parts = [re.match(rf"(?:({WNID.pattern})\s+(?=\S))?(.*)", line.strip()) for line in lines]
    names = tuple(part[2] if part else "" for part in parts)
    wnids = {part[1]: i for i, part in enumerate(parts) if part and part[1]}
    listed = ClassNames(names, f"{file.name} has it", wordnet_ids=wnids)
    odd = known.conflict(names) if known is not None and known.certain else None
    if odd is not None and known is not None:
        raise ImageDataError(
            f"{file} calls class {odd} {names[odd]!r}, which is class {known.find(names[odd])} as {known.source}: list "
            "the classes in the order of the model."
        )
    return listed if wnids else with_wordnet_ids(listed)


def class_folders(folder: Path) -> tuple[list[str], dict[str, list[Path]]]:
    """Return the sorted names of the class folders, and the images of each. Raises ImageDataError without images."""
    _check_folder(folder)
    classes = sorted(path.name for path in folder.iterdir() if path.is_dir() and not is_hidden(path.name))
    if classes and SPLITS.issuperset(classes):
        split = "val" if "val" in classes else classes[-1]
        raise ImageDataError(f"{folder} holds {' and '.join(classes)}, not classes: pass {folder / split}.")
    images = {name: images_below(folder / name) for name in classes}
    if not any(images.values()):
        loose = any(path.suffix.lower() in SUFFIXES for path in folder.iterdir())
        what = "images, but no labels" if loose else "no images"
        raise ImageDataError(
            f"{folder} holds {what}: add a labels.csv (header file,label), or one sub-folder of images per class."
        )
    return classes, images
