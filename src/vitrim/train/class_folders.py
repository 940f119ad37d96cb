"""Read the class folders of a data set, match them with the model's classes, and fingerprint the images."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from ..measure.class_names import class_names_of
from ..measure.images import ImageDataError, LabelledImages, list_images
from ..measure.pixels import images_below, is_hidden


def classes_of(data: Path) -> list[str]:
    """Return the class folders of train; ImageDataError if val has other ones."""
    classes = class_folders(data / "train")
    differing = sorted(set(classes) ^ set(class_folders(data / "val")))
    if differing:
        raise ImageDataError(
            f"{data}: train and val must have the same classes, but {len(differing)} are in one of them only, such as "
            f"{differing[0]}."
        )
    return classes


def labelled_views(data: Path, model: Any, num_classes: int, keeps_head: bool) -> tuple[LabelledImages, LabelledImages]:
    """Return the images of train and val with the labels of their class folders.

    If the classifier is kept, folders are matched with its class names. Otherwise, folders that are neither numbers
    nor known names are labelled by sorted order. Their names are then stored as the model's label_names, so that
    folders of other data are matched with them.
    """
    names = class_names_of(model, num_classes) if keeps_head else None
    names = names if names is not None and names.certain else None
    train, val = (list_images(data / split, num_classes, names=names) for split in ("train", "val"))
    if train.assumed:
        model.pretrained_cfg = (getattr(model, "pretrained_cfg", None) or {}) | {"label_names": train.class_names}
    elif not keeps_head and "label_names" in (getattr(model, "pretrained_cfg", None) or {}):
        model.pretrained_cfg = model.pretrained_cfg | {"label_names": None}  # they belong to the old head
    return train, val


def digest(*folders: LabelledImages) -> str:
    """A fingerprint of the names and labels of images, independent of where the folder is."""
    found = hashlib.blake2b(digest_size=8)
    for images in folders:
        for i, label in enumerate(images.labels):
            found.update(f"{images.name(i)} {label}\n".encode(errors="surrogateescape"))
    return found.hexdigest()


def class_folders(folder: Path) -> list[str]:
    """Return the sorted names of the class folders; ImageDataError if there are none or one has no images."""
    if not folder.is_dir():
        raise ImageDataError(f"there is no folder {folder}: data must hold train and val, each with class folders.")
    images = {path.name: images_below(path) for path in folder.iterdir() if path.is_dir() and not is_hidden(path.name)}
    if not images:
        raise ImageDataError(f"{folder} holds no classes: it must have one sub-folder of images per class.")
    empty = sorted(name for name, found in images.items() if not found)
    if empty:
        raise ImageDataError(f"{folder / empty[0]} holds no images ({len(empty)} such folders): remove or fill it.")
    return sorted(images)
