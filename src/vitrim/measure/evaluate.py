"""Accuracy of a classifier on labelled images."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from ..heads import logits_of
from .batches import Batch, Progress
from .forwards import check_labels, finite, over_batches
from .model_input import eval_transform as eval_transform  # cards of saved models name it here


@dataclass(frozen=True)
class Score:
    """Top-1 and top-5 accuracy, in percent."""

    top1: float
    top5: float  # 100 for a model with at most five classes
    num_images: int  # without skipped ones
    skipped: tuple[str, ...]  # images that could not be read
    seconds: float  # including decoding, unless the images were in memory
    assumption: str = ""  # a sentence, if the order of the classes is assumed
    predicted: tuple[int, ...] = field(default=(), repr=False)  # the best class of each image


def evaluate(
    model: nn.Module,
    batches: Iterable[Batch | tuple[Tensor, Tensor]],
    *,
    device: torch.device | str = "cpu",
    amp: bool = False,
    progress: Progress | None = None,
    **model_kwargs: Any,
) -> Score:
    """Measure top-1 and top-5 of a classifier over batches of images and class indices.

    Args:
        model: returns logits [B, K]. It is moved to the device. Training modes are restored.
        batches: images [B, C, H, W] and labels [B], as from `load_images`.
        device: where the model runs.
        amp: use autocast to bf16, or to fp16 on a GPU without bf16.
        progress: called after each batch with images done and their total (0 if unknown).
        **model_kwargs: passed to the forward, such as interpolate_pos_encoding=True.

    Returns:
        The score, in percent.

    Raises:
        ValueError: logits that are not finite, labels beyond the classes, or no images.
    """
    start = time.perf_counter()

    def hits(x_BCHW: Tensor, labels_B: Tensor) -> tuple[int, int, list[int]]:
        return _hits(_logits(model(x_BCHW, **model_kwargs)), check_labels(labels_B))

    done = over_batches(model, batches, hits, device=device, amp=amp, progress=progress)
    if done.num_images == 0:
        raise ValueError(f"there is no image to evaluate: {len(done.skipped)} could not be read.")
    first, five, predicted = zip(*done.found, strict=True)
    top1, top5 = (100 / done.num_images * sum(hits) for hits in (first, five))
    seconds = time.perf_counter() - start
    return Score(top1, top5, done.num_images, done.skipped, seconds, predicted=tuple(chain.from_iterable(predicted)))


def _logits(output: object) -> Tensor:
    logits_BK = logits_of(output)
    if not isinstance(logits_BK, Tensor) or logits_BK.ndim != 2:
        shape = tuple(logits_BK.shape) if isinstance(logits_BK, Tensor) else type(logits_BK).__name__
        raise ValueError(f"evaluate needs logits [batch, classes]; the model returned {shape}.")
    return finite(logits_BK)


def _hits(logits_BK: Tensor, labels_B: Tensor) -> tuple[int, int, list[int]]:
    """Images whose best class is right, those with the right one among the best five, and the best of each."""
    num_classes = logits_BK.shape[1]
    if int(labels_B.max()) >= num_classes:
        raise ValueError(f"a label is {int(labels_B.max())}, but the model has classes 0 to {num_classes - 1}.")
    best_B5 = logits_BK.topk(min(5, num_classes), dim=1).indices
    hit_B5 = best_B5 == labels_B.unsqueeze(1)
    return int(hit_B5[:, 0].sum()), int(hit_B5.any(dim=1).sum()), best_B5[:, 0].tolist()
