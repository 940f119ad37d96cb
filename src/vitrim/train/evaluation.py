"""Measure the top-1 accuracy of several models on the validation images, which all processes share."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ..measure.batches import ImageDataset, Sample
from ..measure.forwards import evaluating
from ..measure.images import ImageDataError


class Scores(NamedTuple):
    """Accuracies on the validation images that can be read."""

    top1: dict[str, float]  # model -> top-1 in percent
    unreadable: dict[str, str]  # file -> why it could not be read; of this process's share


@torch.no_grad()
def accuracies(
    models: Mapping[str, nn.Module], dataset: ImageDataset, batch_size: int, accelerator: Any, workers: int = 0
) -> Scores:
    """Return the top-1 of each model; ImageDataError if no image can be read.

    Each image is decoded once for all models, whose modes are restored. Every process runs the same number of batches,
    since a forward of a sharded model needs all processes.
    """
    hits = torch.zeros(len(models), 2, device=accelerator.device)  # correct images, all images
    unreadable: dict[str, str] = {}
    with ExitStack() as modes:
        for model in models.values():
            modes.enter_context(evaluating(model))
        for samples in _loader(dataset, batch_size, accelerator, workers):
            unreadable |= {sample.name: sample.failure for sample in samples if sample.x_CHW is None}
            x_BCHW, labels_B = _batch(samples, dataset, accelerator.device)
            if x_BCHW is None:
                continue
            for i, model in enumerate(models.values()):
                with accelerator.autocast():
                    choice_B = model(x_BCHW).argmax(dim=1)
                right = (choice_B[: len(labels_B)] == labels_B).sum()
                hits[i] += torch.stack([right, torch.tensor(len(labels_B), device=right.device)])
    found = accelerator.reduce(hits, "sum").tolist()
    if not all(count for _, count in found):
        raise ImageDataError(f"none of the {len(dataset)} images in {dataset.images.folder} can be read.")
    return Scores({name: 100 * right / count for name, (right, count) in zip(models, found, strict=True)}, unreadable)


def _loader(dataset: ImageDataset, batch_size: int, accelerator: Any, workers: int) -> DataLoader[Sample]:
    mine = list(range(accelerator.process_index, len(dataset), accelerator.num_processes))
    most = -(-len(dataset) // accelerator.num_processes)
    batches = [mine[start : start + batch_size] for start in range(0, most, batch_size)]
    return DataLoader(dataset, batch_sampler=batches, num_workers=workers, collate_fn=list)


def _batch(samples: list[Sample], dataset: ImageDataset, device: torch.device) -> tuple[Tensor | None, Tensor]:
    """Return images and labels. If no image can be read: any other image, for the forward, and no label."""
    read = [sample for sample in samples if sample.x_CHW is not None]
    images = [sample.x_CHW for sample in read if sample.x_CHW is not None]
    if not images:
        any_image = (dataset[i].x_CHW for i in range(len(dataset)))
        images = [x_CHW for x_CHW in any_image if x_CHW is not None][:1]
    labels_B = torch.tensor([sample.label for sample in read], dtype=torch.long, device=device)
    return (torch.stack(images).to(device) if images else None), labels_B
