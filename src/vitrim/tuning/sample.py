"""The images of a search: one half to search with, the other held out for the figures that are quoted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ..heads import classifier_of, num_classes
from ..measure.folder import load_images
from ..measure.forwards import dtype_of, evaluating
from ..measure.images import LabelledImages
from .answers import Answers

BATCH = 32  # images at a time while answers are computed
LEAST = 8  # images that a search can begin with
FIRST = (8, 8, 16)  # batches of a search to begin with: most candidates are dropped after the first ones


@dataclass(frozen=True)
class Sample:
    """Prepared images with their labels, -1 for none, and which of them are held out."""

    x_ICHW: Tensor
    labels_I: Tensor
    images: LabelledImages
    searched: Tensor  # indices
    held_out: Tensor

    @property
    def labelled(self) -> bool:
        """Whether every image has a label."""
        return bool((self.labels_I >= 0).all())


def load_sample(
    model: nn.Module,
    folder: Path,
    limit: int | None,
    seed: int,
    num_search: int | None = None,
    *,
    skip_bad: bool = False,
) -> Sample:
    """The images of a folder, prepared for the model; ValueError if they are too few to search with."""
    batches = load_images(model, folder, limit=limit, batch_size=BATCH, skip_bad=skip_bad)
    parts = [(batch.x_BCHW, batch.labels_B) for batch in batches]
    x_ICHW, labels_I = torch.cat([x for x, _ in parts]), torch.cat([labels for _, labels in parts])
    if len(x_ICHW) < LEAST:
        raise ValueError(f"tune needs at least {LEAST} images, half to search with; {folder} has {len(x_ICHW)}.")
    order = torch.randperm(len(x_ICHW), generator=torch.Generator().manual_seed(seed))
    first = len(order) // 2 if num_search is None else num_search
    if len(order) - first < LEAST // 2:
        raise ValueError(f"{first} of {len(order)} images are to be searched with: leave at least {LEAST // 2} others.")
    return Sample(x_ICHW, labels_I, batches.images, order[:first], order[first:])


def for_search(rows: Tensor) -> list[Tensor]:
    """Images or answers in the batches of a search, small ones first."""
    rest, parts = rows, []
    for size in FIRST:
        parts.append(rest[:size])
        rest = rest[size:]
    return [part for part in (*parts, *torch.split(rest, BATCH)) if len(part)]


def answers_for(model: nn.Module, num_prefix: int) -> Answers:
    """How to read this model's outputs."""
    return Answers(classes=classifier_of(model) is not None and num_classes(model) != 0, num_prefix=num_prefix)


def answer(
    model: nn.Module,
    x_ICHW: Tensor,
    answers: Answers,
    device: torch.device,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """The model's answers to the images: [I, K]."""
    found: list[Tensor] = []
    with evaluating(model), torch.inference_mode():
        for x_BCHW in torch.split(x_ICHW, BATCH):
            found.append(answers.read(model(x_BCHW.to(device, dtype_of(model, x_BCHW)))).cpu())
            if progress is not None:
                progress(sum(map(len, found)), len(x_ICHW))
    return torch.cat(found)
