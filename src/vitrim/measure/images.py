"""Labelled images: found in a folder, each with the index of its class.

Two layouts: a folder with labels.csv (header file,label; files relative to the folder or to its images/ folder), or
one sub-folder per class. Folders named by whole numbers are those classes; others are matched with the names that the
model knows, or with classes.txt; where nothing says which class a folder is, their sorted order is assumed, and told.
"""

from __future__ import annotations

import csv
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
HEADER = ["file", "label"]
NAME_FILES = ("classes.txt", "synset_words.txt")


@dataclass(frozen=True)
class LabelledImages:
    """Image files and the class index of each, sorted by class, then by name."""

    folder: Path
    files: tuple[Path, ...]
    labels: tuple[int, ...]
    class_names: tuple[str, ...] | None  # one per class of the model; None if nothing says
    labels_by: str = ""  # where the labels come from, in words
    assumed: bool = False  # nothing says which class a folder is, and their sorted order was taken

    def __len__(self) -> int:
        return len(self.files)

    def name(self, index: int) -> str:
        """The file's name inside the folder."""
        file = self.files[index]
        return file.relative_to(self.folder).as_posix() if file.is_relative_to(self.folder) else str(file)

    @property
    def assumption(self) -> str:
        """A sentence on an order of classes that was assumed; empty if it was not."""
        if not self.assumed or self.class_names is None:
            return ""
        shown = ", ".join(self.class_names[:3]) + (", ..." if len(self.class_names) > 3 else "")
        return (
            f"the order of the classes is assumed: the sorted folders ({shown}) are taken for the classes 0 to "
            f"{len(self.class_names) - 1}, for nothing says which is which; if the model has another order, {ADVICE}."
        )


def list_images(
    folder: Path | str, num_classes: int, limit: int | None = None, *, names: ClassNames | None = None
) -> LabelledImages:
    """The labelled images of a folder, for a model with num_classes classes.

    limit: at most so many, evenly spaced over the images sorted by class, so that all classes occur; always the same.
    names: what the model's classes are called (`class_names_of`); without them ImageNet's, where there are as many.
    """
    _check_limit(limit)
    folder = Path(folder)
    _check_folder(folder)
    known = imagenet_names(num_classes) if names is None else names
    if (folder / "labels.csv").is_file():
        listed = _listed_names(folder, num_classes, known, strict=True)
        found = _from_table(folder, num_classes, known or listed)
        shown, said, assumed = (None if listed is None else listed.names), "labels.csv", False
    else:
        listed = _listed_names(folder, num_classes, known, strict=False)
        classes, images = class_folders(folder)
        index, shown, said, assumed = class_index(folder, classes, images, num_classes, listed or known)
        found = [(file, index[name]) for name in classes for file in images[name]]
    found = _spaced(sorted(found, key=lambda pair: (pair[1], str(pair[0]))), limit)
    files, labels = zip(*found, strict=True)
    return LabelledImages(folder, files, labels, shown, said, assumed)


def has_labels(folder: Path | str) -> bool:
    """Whether a folder says what its images show: by a labels.csv, or by sub-folders of images."""
    folder = Path(folder)
    _check_folder(folder)
    inside = (path for path in folder.iterdir() if path.is_dir() and not is_hidden(path.name))
    return (folder / "labels.csv").is_file() or any(images_below(path) for path in inside)


def unlabelled(folder: Path | str, limit: int | None = None) -> LabelledImages:
    """The images below a folder, whatever they show, each with the label -1."""
    files = list_files(folder, limit)
    return LabelledImages(Path(folder), files, (-1,) * len(files), None)


def list_files(folder: Path | str, limit: int | None = None) -> tuple[Path, ...]:
    """Image files below a folder, whatever they show: at most so many, evenly spaced over their sorted paths."""
    _check_limit(limit)
    folder = Path(folder)
    _check_folder(folder)
    found = sorted(images_below(folder))
    if not found:
        raise ImageDataError(f"{folder} holds no images.")
    return tuple(_spaced(found, limit))


def _spaced(found: list[T], limit: int | None) -> list[T]:
    """At most so many, evenly spaced."""
    if limit is None or limit >= len(found):
        return found
    return [found[i * len(found) // limit] for i in range(limit)]


def _check_limit(limit: int | None) -> None:
    if limit is not None and not is_whole(limit, 1):
        raise ValueError(f"the limit on images is a whole number of at least 1, not {limit!r}.")


def _check_folder(folder: Path) -> None:
    if not folder.exists():
        raise ImageDataError(f"there is no folder {folder}.")
    if not folder.is_dir():
        raise ImageDataError(f"{folder} is a file: images come from a folder (unpack an archive first).")


def _from_table(folder: Path, num_classes: int, names: ClassNames | None) -> list[tuple[Path, int]]:
    table = folder / "labels.csv"
    rows = _read_rows(table)
    header = [cell.strip() for cell in rows[0][1]] if rows else []
    if header != HEADER:
        raise ImageDataError(f"{table} must begin with the line file,label, not with {','.join(header)!r}.")
    found: dict[Path, int] = {}
    first_line: dict[Path, int] = {}
    for line, row in rows[1:]:
        file, label = _check_row(row, num_classes, names, f"{table}, line {line}")
        path = next((path for path in (folder / file, folder / "images" / file) if path.is_file()), None)
        if path is None:
            raise ImageDataError(f"{table}, line {line}: there is no file {file} in {folder} or its folder images.")
        if path in found:
            raise ImageDataError(f"{table}, line {line}: {file} is listed before, in line {first_line[path]}.")
        found[path], first_line[path] = label, line
    if not found:
        raise ImageDataError(f"{table} lists no images.")
    return list(found.items())


def _read_rows(table: Path) -> list[tuple[int, list[str]]]:
    """The non-empty rows, each with its line number."""
    try:
        with table.open(newline="", encoding="utf-8-sig") as lines:
            reader = csv.reader(lines)
            return [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ImageDataError(f"{table} is not a table in UTF-8 text ({error}).") from error


def _check_row(row: Sequence[str], num_classes: int, names: ClassNames | None, where: str) -> tuple[str, int]:
    if len(row) != len(HEADER):
        raise ImageDataError(f"{where}: wanted a file and a label, and {len(row)} entries came: {','.join(row)!r}.")
    file, label = (cell.strip() for cell in row)
    index = whole_number(label)
    if index is None and names is not None and label:
        index = names.find(label)
    if index is None or index >= num_classes:
        raise ImageDataError(
            f"{where}: the label of {file} is {shown(repr(label), 60)}, and the model's classes are the whole numbers "
            f"0 to {num_classes - 1}."
        )
    return file, index


def _listed_names(folder: Path, num_classes: int, known: ClassNames | None, *, strict: bool) -> ClassNames | None:
    """The lines of classes.txt or synset_words.txt; None if there is neither, or, unless strict, of another number."""
    file = next((folder / name for name in NAME_FILES if (folder / name).is_file()), None)
    if file is None:
        return None
    lines = file.read_text(encoding="utf-8-sig", errors="replace").strip("\r\n").splitlines()
    if len(lines) != num_classes:
        if not strict:
            return None
        raise ImageDataError(f"{file} names {len(lines)} classes, one a line, and the model has {num_classes}.")
    parts = [re.match(rf"(?:({WNID.pattern})\s+(?=\S))?(.*)", line.strip()) for line in lines]
    names = tuple(part[2] if part else "" for part in parts)
    wnids = {part[1]: i for i, part in enumerate(parts) if part and part[1]}
    listed = ClassNames(names, f"{file.name} has it", wordnet_ids=wnids)
    odd = known.conflict(names) if known is not None and known.certain else None
    if odd is not None and known is not None:
        raise ImageDataError(
            f"{file} calls class {odd} {names[odd]!r}, which is class {known.find(names[odd])} as {known.source}: "
            "give the classes in the model's order."
        )
    return listed if wnids else with_wordnet_ids(listed)


def class_folders(folder: Path) -> tuple[list[str], dict[str, list[Path]]]:
    """Names of the class folders, sorted, and the images in each; ImageDataError where there are none."""
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
            f"{folder} holds {what}: wanted labels.csv (header file,label) or one sub-folder of images per class."
        )
    return classes, images
