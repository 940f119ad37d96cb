"""The class folders of a data set, what their classes are, and a fingerprint of its images."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from ..measure.class_names import class_names_of
from ..measure.images import ImageDataError, LabelledImages, list_images
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


def labelled_views(data: Path, model: Any, num_classes: int, keeps_head: bool) -> tuple[LabelledImages, LabelledImages]:
    """The images of train and val, by the names of a classifier that is kept.

    Else where neither numbers nor names known to all say which class a folder is, its sorted order does, and the model
    notes the names as its label_names, so that the folders of other data are matched with them.
    """
    names = class_names_of(model, num_classes) if keeps_head else None
    names = names if names is not None and names.certain else None
    train, val = (list_images(data / split, num_classes, names=names) for split in ("train", "val"))
    if train.assumed:
        model.pretrained_cfg = (getattr(model, "pretrained_cfg", None) or {}) | {"label_names": train.class_names}
    elif not keeps_head and "label_names" in (getattr(model, "pretrained_cfg", None) or {}):
        model.pretrained_cfg = model.pretrained_cfg | {"label_names": None}  # those of the head before
    return train, val


def digest(*folders: LabelledImages) -> str:
    """A fingerprint of the names and labels of images, wherever they lie."""
    found = hashlib.blake2b(digest_size=8)
    for images in folders:
        for i, label in enumerate(images.labels):
            found.update(f"{images.name(i)} {label}\n".encode(errors="surrogateescape"))
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
