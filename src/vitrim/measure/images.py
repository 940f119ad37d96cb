"""Labelled images: found in a folder and opened.

Two layouts: a folder with labels.csv (header file,label; files relative to the folder or to its images/ folder), or
one sub-folder per class.
"""

from __future__ import annotations

import csv
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pnm"))
SPLITS = frozenset(("train", "val", "valid", "validation", "test"))
HEADER = ["file", "label"]
NAME_FILES = ("classes.txt", "synset_words.txt")
WNID = re.compile(r"n\d{8}")  # WordNet id, the name of an ImageNet class folder
MODES = {1: "L", 3: "RGB"}  # Pillow's mode by number of channels


class ImageDataError(ValueError):
    """A folder of images, or one image, cannot be used; the message is one line."""


@dataclass(frozen=True)
class LabelledImages:
    """Image files and the class index of each, sorted by class, then by name."""

    folder: Path
    files: tuple[Path, ...]
    labels: tuple[int, ...]
    class_names: tuple[str, ...] | None  # one per class of the model; None if nothing says

    def __len__(self) -> int:
        return len(self.files)

    def name(self, index: int) -> str:
        """The file's name inside the folder."""
        file = self.files[index]
        return file.relative_to(self.folder).as_posix() if file.is_relative_to(self.folder) else str(file)


def list_images(folder: Path | str, num_classes: int, limit: int | None = None) -> LabelledImages:
    """The labelled images of a folder, for a model with num_classes classes.

    limit: at most so many, evenly spaced over the images sorted by class, so that all classes occur; always the same.
    Sub-folders are classes in sorted order if there are as many as the model has; folders named by WordNet id
    (n01440764) are found in timm's label sets, so that a part of the ImageNet classes is enough.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"the limit on images must be at least 1, not {limit}.")
    folder = Path(folder)
    _check_folder(folder)
    if (folder / "labels.csv").is_file():
        found, class_names = _from_table(folder, num_classes), _names_in_file(folder, num_classes)
    else:
        found, class_names = _from_tree(folder, num_classes)
    found = sorted(found, key=lambda pair: (pair[1], str(pair[0])))
    if limit is not None and limit < len(found):
        found = [found[i * len(found) // limit] for i in range(limit)]
    files, labels = zip(*found, strict=True)
    return LabelledImages(folder, files, labels, class_names)


def list_files(folder: Path | str, limit: int) -> tuple[Path, ...]:
    """Image files below a folder, whatever they show: at most so many, evenly spaced over their sorted paths."""
    folder = Path(folder)
    _check_folder(folder)
    found = sorted(_images_below(folder))
    if not found:
        raise ImageDataError(f"{folder} holds no images.")
    return tuple(found[i * len(found) // limit] for i in range(limit)) if limit < len(found) else tuple(found)


def open_image(path: Path, channels: int) -> Image.Image:
    """The image, fully decoded, in gray (1 channel) or RGB (3). ImageDataError names a file that cannot be read."""
    if not path.exists():
        raise ImageDataError(f"there is no file {path}.")
    if path.is_dir():
        raise ImageDataError(f"{path} is a folder, and an image file is wanted.")
    if channels not in MODES:
        raise ValueError(f"images are read with 1 channel (gray) or 3 (RGB), and the model takes {channels}.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                # Pillow warns about a palette with transparency unless it becomes RGBA first.
                opaque = image.convert("RGBA") if "transparency" in image.info else image
                return opaque.convert(MODES[channels])
    except Exception as error:  # decoders raise whatever the bytes lead them to
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ImageDataError(f"{path} is not an image that can be read ({reason}): repair or remove it.") from error


def _check_folder(folder: Path) -> None:
    if not folder.exists():
        raise ImageDataError(f"there is no folder {folder}.")
    if not folder.is_dir():
        raise ImageDataError(f"{folder} is a file: images come from a folder (unpack an archive first).")


def _from_table(folder: Path, num_classes: int) -> list[tuple[Path, int]]:
    table = folder / "labels.csv"
    rows = _read_rows(table)
    header = [cell.strip() for cell in rows[0][1]] if rows else []
    if header != HEADER:
        raise ImageDataError(f"{table} must begin with the line file,label, not with {','.join(header)!r}.")
    found: dict[Path, int] = {}
    first_line: dict[Path, int] = {}
    for line, row in rows[1:]:
        file, label = _check_row(row, num_classes, f"{table}, line {line}")
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


def _check_row(row: Sequence[str], num_classes: int, where: str) -> tuple[str, int]:
    if len(row) != len(HEADER):
        raise ImageDataError(f"{where}: wanted a file and a label, and {len(row)} entries came: {','.join(row)!r}.")
    file, label = (cell.strip() for cell in row)
    if not (label.isascii() and label.isdecimal() and int(label) < num_classes):
        raise ImageDataError(
            f"{where}: the label of {file} is {label!r}, and the model's classes are the whole numbers "
            f"0 to {num_classes - 1}."
        )
    return file, int(label)


def _names_in_file(folder: Path, num_classes: int) -> tuple[str, ...] | None:
    """The lines of classes.txt or synset_words.txt, without WordNet ids in front; None if there is neither."""
    file = next((folder / name for name in NAME_FILES if (folder / name).is_file()), None)
    if file is None:
        return None
    lines = file.read_text(encoding="utf-8-sig", errors="replace").strip("\r\n").splitlines()
    if len(lines) != num_classes:
        raise ImageDataError(f"{file} names {len(lines)} classes, one a line, and the model has {num_classes}.")
    return tuple(re.sub(rf"^{WNID.pattern}\s+(?=\S)", "", line.strip()) for line in lines)


def _from_tree(folder: Path, num_classes: int) -> tuple[list[tuple[Path, int]], tuple[str, ...] | None]:
    classes = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if classes and SPLITS.issuperset(classes):
        split = "val" if "val" in classes else classes[-1]
        raise ImageDataError(f"{folder} holds {' and '.join(classes)}, not classes: pass {folder / split}.")
    images = {name: _images_below(folder / name) for name in classes}
    if not any(images.values()):
        loose = any(path.suffix.lower() in SUFFIXES for path in folder.iterdir())
        what = "images, but no labels" if loose else "no images"
        raise ImageDataError(
            f"{folder} holds {what}: wanted labels.csv (header file,label) or one sub-folder of images per class."
        )
    index, class_names = _class_index(folder, classes, num_classes)
    return [(file, index[name]) for name in classes for file in images[name]], class_names


def _images_below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")]


def _class_index(folder: Path, classes: Sequence[str], num_classes: int) -> tuple[dict[str, int], tuple[str, ...]]:
    """Index of each class folder, and the names of all classes of the model."""
    if all(WNID.fullmatch(name) for name in classes):
        wnids, descriptions = _imagenet(num_classes)
        unknown = [name for name in classes if name not in wnids]
        if wnids and not unknown:
            return {name: wnids[name] for name in classes}, descriptions
        if wnids and len(classes) != num_classes:
            raise ImageDataError(f"{folder}: {unknown[0]} is none of the {num_classes} ImageNet classes of the model.")
    if len(classes) == num_classes:
        return {name: i for i, name in enumerate(classes)}, tuple(classes)
    raise ImageDataError(
        f"{folder} has {len(classes)} class folders ({', '.join(classes[:3])}{', ...' if len(classes) > 3 else ''}), "
        f"and the model has {num_classes} classes: wanted as many folders, or folders named by ImageNet's WordNet "
        "ids, or labels.csv (header file,label)."
    )


def _imagenet(num_classes: int) -> tuple[dict[str, int], tuple[str, ...]]:
    """Index by WordNet id, and descriptions, of timm's label set of that size; empty if there is none."""
    from timm.data import ImageNetInfo, infer_imagenet_subset

    subset = infer_imagenet_subset({"num_classes": num_classes})
    if subset is None:
        return {}, ()
    info: Any = ImageNetInfo(subset)  # untyped
    return {name: i for i, name in enumerate(info.label_names())}, tuple(info.label_descriptions())
