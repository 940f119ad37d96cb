"""Top-1 on the validation images, shared by all processes."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..measure.batches import ImageDataset, Transform
from ..measure.images import LabelledImages


@torch.no_grad()
def accuracy(
    model: nn.Module, images: LabelledImages, transform: Transform, channels: int, batch_size: int, accelerator: Any
) -> float:
    """Top-1 in per cent over the images that can be read; the model's mode is left as it was.

    Every process takes as many batches as any other, since a sharded model needs all of them in each forward.
    """
    dataset = ImageDataset(images, transform, channels)
    mine = list(range(accelerator.process_index, len(images), accelerator.num_processes))
    most = -(-len(images) // accelerator.num_processes)
    hits = torch.zeros(2, device=accelerator.device)  # right ones, all
    was_training = model.training
    model.eval()
    try:
        for start in range(0, most, batch_size):
            samples = [dataset[i] for i in mine[start : start + batch_size]]
            read = [(sample.x_CHW, sample.label) for sample in samples if sample.x_CHW is not None]
            hits += _hits(model, read, dataset, accelerator)
    finally:
        model.train(was_training)
    right, count = accelerator.reduce(hits, "sum").tolist()
    return 100 * right / max(1, count)


def _hits(model: nn.Module, read: list[Any], dataset: ImageDataset, accelerator: Any) -> torch.Tensor:
    """Right answers and images of one batch; without any image, a forward for the others' sake."""
    if not read:
        first = next(sample.x_CHW for sample in (dataset[i] for i in range(len(dataset))) if sample.x_CHW is not None)
        with accelerator.autocast():
            model(first[None].to(accelerator.device))
        return torch.zeros(2, device=accelerator.device)
    x_BCHW = torch.stack([x for x, _ in read]).to(accelerator.device)
    labels_B = torch.tensor([label for _, label in read], device=accelerator.device)
    with accelerator.autocast():
        logits_BK = model(x_BCHW)
    right = (logits_BK.argmax(dim=1) == labels_B).sum()
    return torch.stack([right, torch.tensor(len(read), device=right.device)]).float()
