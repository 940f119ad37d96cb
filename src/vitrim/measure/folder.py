"""Load the images of a folder for a model: find, label and preprocess them."""

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
from .evaluate import Score, evaluate
from .images import LabelledImages, has_labels, list_files, list_images, open_image, unlabelled
from .model_input import eval_transform, input_size_of
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
    """Load the images of a folder in batches, preprocessed for a model as its own library does it.

    Args:
        model: The model to load for. Its class names are matched with the folder's.
        folder: Images with a labels.csv, one sub-folder of images per class, or just images.
        labels: Whether the images have labels. Default: detect it. Without labels, all images below the folder are
            loaded, with label -1.
        limit: Maximal number of images, evenly spread over the classes. The choice is always the same.
        batch_size: Images per batch.
        transform: Replaces the model's own preprocessing: image -> [C, H, W].
        skip_bad: Leave out unreadable images, and list them in `skipped` of their batch.
        num_workers: Decoding processes. None: chosen for this machine.
        max_bytes: Keep the batches in memory if the tensors take at most this much. Otherwise each pass decodes again.
        progress: Called with images done and their total while images are decoded into memory.

    Returns:
        Batches (images [B, C, H, W], labels [B], skipped), for any number of passes. `images` has the files, the class
        names, and `assumption`, a sentence if the order of the classes is assumed.

    Raises:
        ImageDataError: There are no images, an image cannot be read, or a label is not a class of the model.
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
    """Measure top-1 and top-5 on a folder of labelled images, preprocessed by the model's own library.

    Args:
        model: The model, reduced or not. It is moved to the device.
        folder: Images with a labels.csv, or one sub-folder of images per class.
        limit, batch_size, skip_bad, num_workers: As for `load_images`.
        device: Where the model runs.
        amp: Use autocast.
        progress: Called with images done and their total.
        transform: Replaces the model's own preprocessing: image -> [C, H, W].
        **model_kwargs: Passed to the forward.

    Returns:
        The score, in percent, with the number of images.

    Raises:
        ImageDataError: There are no images, an image cannot be read, or a label is not a class of the model.
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
    """Preprocess image files for a model: [I, C, H, W]."""
    channels, transform = input_size_of(model)[0], eval_transform(model)
    return torch.stack([transform(open_image(file, channels)) for file in files])


def prepared_folder(model: nn.Module, folder: Path | str, limit: int) -> Tensor:
    """Preprocess at most `limit` images below a folder, without labels: [I, C, H, W]."""
    return prepared_files(model, list_files(folder, limit))


def labelled_images(model: nn.Module, folder: Path | str, limit: int | None = None) -> LabelledImages:
    """List the labelled images of a folder, and match its classes with those of the model."""
    num_classes = num_classes_of(model)
    return list_images(folder, num_classes, limit, names=class_names_of(model, num_classes))


def num_classes_of(model: nn.Module) -> int:
    """Return the number of classes, by the head of the model. Raises ValueError if it is unknown or 0."""
    check_module(model)
    known = classifier_of(model) is not None
    found = num_classes(model) if known else getattr(model, "num_classes", None)
    if not isinstance(found, int):
        what = "does not say how many classes its head has" if known else "does not say its num_classes"
        raise ValueError(f"{type(model).__name__} {what}: use list_images and evaluate.")
    if found < 1:
        raise ValueError(f"{type(model).__name__} has no classes, so there is no accuracy to measure.")
    return found
