"""Images of a folder, ready for a model: found, labelled by its classes, and prepared by its own library.

Shape letters: I images, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..heads import check_module, classifier_of, num_classes
from .batches import MAX_BYTES, ImageBatches, Progress, image_batches
from .class_names import class_names_of
from .evaluate import Score, eval_transform, evaluate, input_size_of
from .images import LabelledImages, has_labels, list_files, list_images, open_image, unlabelled
from .preparation import Transform


def load_images(
    model: nn.Module,
    folder: Path | str,
    *,
    labels: bool | None = None,
    limit: int | None = None,
    batch_size: int = 32,
    transform: Transform | None = None,
    skip_bad: bool = False,
    num_workers: int | None = None,
    max_bytes: int = MAX_BYTES,
    progress: Progress | None = None,
) -> ImageBatches:
    """The images of a folder in batches, prepared for a model as its own library does it.

    Args:
        model: The model that will see them. Its classes are matched with the folder's by what the model calls them.
        folder: Images with a labels.csv, one sub-folder of images per class, or just images.
        labels: Whether the images have labels; found out by default. Without labels every image below the folder is
            taken, and its label is -1.
        limit: At most so many images, evenly spread over the classes; always the same.
        batch_size: Images in a batch.
        transform: Prepares the images in place of the model's own preparation, image -> [C, H, W].
        skip_bad: Leave out images that cannot be read, and name them in their batch's `skipped`.
        num_workers: Decoding processes; None for a number that suits this machine.
        max_bytes: Keep the batches in memory if all tensors together take at most this much; else each pass decodes.
        progress: Called with images done and images in all while images are decoded into memory.

    Returns:
        Batches (images [B, C, H, W], labels [B], skipped) that can be read any number of times. `images` has the files,
        the classes' names, and `assumption`, a sentence if the order of the classes was assumed.

    Raises:
        ImageDataError: There are no images, an image cannot be read, or a label is none of the model's classes.
        ValueError: The model does not say how its images are prepared, or how many classes it has.
    """
    check_module(model)
    if labels is None:
        labels = has_labels(folder) and (classifier_of(model) is None or num_classes(model) != 0)
    return image_batches(
        labelled_images(model, folder, limit) if labels else unlabelled(folder, limit),
        eval_transform(model) if transform is None else transform,
        input_size_of(model)[0],
        batch_size=batch_size,
        skip_bad=skip_bad,
        num_workers=num_workers,
        max_bytes=max_bytes,
        progress=progress,
    )


def evaluate_folder(
    model: nn.Module,
    folder: Path | str,
    *,
    limit: int | None = None,
    batch_size: int = 32,
    device: torch.device | str = "cpu",
    amp: bool = False,
    skip_bad: bool = False,
    num_workers: int | None = None,
    progress: Progress | None = None,
    transform: Transform | None = None,
    **model_kwargs: Any,
) -> Score:
    """Top-1 and top-5 on a folder of labelled images, prepared by the model's own library.

    Args:
        model: The model, reduced or not; it moves to the device.
        folder: Images with a labels.csv, or one sub-folder of images per class.
        limit, batch_size, skip_bad, num_workers: As for `load_images`.
        device: Where the model runs.
        amp: Autocast on that device.
        progress: Called with images done and images in all.
        transform: Prepares the images in place of the model's own preparation, image -> [C, H, W].
        **model_kwargs: Of the model's forward.

    Returns:
        The score: percent, and how many images it was measured on.

    Raises:
        ImageDataError: There are no images, an image cannot be read, or a label is none of the model's classes.
        ValueError: The model does not say how its images are prepared, or its logits are not finite.
    """
    batches = load_images(
        model,
        folder,
        labels=True,
        limit=limit,
        batch_size=batch_size,
        transform=transform,
        skip_bad=skip_bad,
        num_workers=num_workers,
        max_bytes=0,
    )
    score = evaluate(model, batches, device=device, amp=amp, progress=progress, **model_kwargs)
    return replace(score, assumption=batches.images.assumption)


def prepared_files(model: nn.Module, files: Sequence[Path]) -> Tensor:
    """Some image files as the model's input: [I, C, H, W]."""
    channels, transform = input_size_of(model)[0], eval_transform(model)
    return torch.stack([transform(open_image(file, channels)) for file in files])


def prepared_folder(model: nn.Module, folder: Path | str, limit: int) -> Tensor:
    """At most so many of the images below a folder, whatever they show, as the model's input: [I, C, H, W]."""
    return prepared_files(model, list_files(folder, limit))


def labelled_images(model: nn.Module, folder: Path | str, limit: int | None = None) -> LabelledImages:
    """The labelled images of a folder, its classes matched with the model's by what the model calls them."""
    num_classes = num_classes_of(model)
    return list_images(folder, num_classes, limit, names=class_names_of(model, num_classes))


def num_classes_of(model: nn.Module) -> int:
    """Classes that a model tells apart, by its head; ValueError for one that does not say, or has none."""
    check_module(model)
    known = classifier_of(model) is not None
    found = num_classes(model) if known else getattr(model, "num_classes", None)
    if not isinstance(found, int):
        what = "has a head that does not tell how many classes it knows" if known else "does not say its num_classes"
        raise ValueError(f"{type(model).__name__} {what}: use list_images and evaluate.")
    if found < 1:
        raise ValueError(f"{type(model).__name__} has no classes, so there is no accuracy to measure.")
    return found
