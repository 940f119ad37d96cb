"""The class folders of a data set, and a fingerprint of its images."""

from __future__ import annotations

import hashlib
from pathlib import Path

from ..measure.images import ImageDataError, LabelledImages
from ..measure.pixels import images_below, is_hidden


def classes_of(data: Path) -> list[str]:
    """The class folders of train, which must be those of val."""
    classes = class_folders(data / "train")
    differing = sorted(set(classes) ^ set(class_folders(data / "val")))
    if differing:
        raise ImageDataError(
            f"{data}: train and val hold other classes: {differing[0]} is in one of them only ({len(differing)} such)."
        )
    return classes


def digest(*folders: LabelledImages) -> str:
    """A fingerprint of the names and labels of images, wherever they lie."""
    found = hashlib.blake2b(digest_size=8)
    for images in folders:
        for i, label in enumerate(images.labels):
            found.update(f"{images.name(i)} {label}\n".encode())
    return found.hexdigest()


def class_folders(folder: Path) -> list[str]:
    """Names of the class folders with images in them, sorted. ImageDataError says what is missing."""
    if not folder.is_dir():
        raise ImageDataError(f"there is no folder {folder}: data holds train and val, each with its class folders.")
    images = {path.name: images_below(path) for path in folder.iterdir() if path.is_dir() and not is_hidden(path.name)}
    if not images:
        raise ImageDataError(f"{folder} holds no classes: wanted one sub-folder of images per class.")
    empty = sorted(name for name, found in images.items() if not found)
    if empty:
        raise ImageDataError(f"{folder / empty[0]} holds no images: remove it, or fill it ({len(empty)} such folders).")
    return sorted(images)
