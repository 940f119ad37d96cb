"""The one loop of a model over batches of images: device, data type, autocast, progress, logits that are finite.

Shape letters: B batch, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from .batches import Batch, ImageBatches, Progress

T = TypeVar("T")


@dataclass(frozen=True)
class Forwards(Generic[T]):
    """What was found on each batch that had images."""

    found: list[T]
    num_images: int  # without the skipped ones
    skipped: tuple[str, ...]  # images that could not be read


def over_batches(
    model: nn.Module,
    batches: Iterable[Batch | tuple[Tensor, Tensor]],
    step: Callable[[Tensor, Tensor], T],
    *,
    device: torch.device | str = "cpu",
    amp: bool = False,
    progress: Progress | None = None,
) -> Forwards[T]:
    """Take one step for each batch, in eval and inference mode.

    Args:
        model: It moves to the device and stays there; training modes are put back.
        batches: Images and labels.
        step: Runs the model on the images [B, C, H, W], which are on the device in the model's data type, and the
            labels [B], and returns what is to be kept.
        device: Where the model computes.
        amp: Autocast to bf16, or to fp16 on a GPU without bf16.
        progress: Called after each batch with images done and images in all (0 if unknown).
    """
    place, total = check_device(device), count_images(batches)
    found: list[T] = []
    skipped: list[str] = []
    num_images = 0
    with evaluating(model.to(place)), torch.inference_mode(), autocast(place, amp):
        for x_BCHW, labels_B, names in (Batch(*batch) for batch in batches):
            skipped += names
            if len(labels_B) > 0:
                num_images += len(labels_B)
                found.append(step(x_BCHW.to(place, dtype_of(model, x_BCHW)), labels_B.to(place)))
            if progress is not None:
                progress(num_images + len(skipped), total)
    return Forwards(found, num_images, tuple(skipped))


def check_labels(labels_B: Tensor) -> Tensor:
    """The labels; ValueError if an image has none."""
    if int(labels_B.min()) < 0:
        raise ValueError(
            f"a label is {int(labels_B.min())}: accuracy needs images with labels, from a labels.csv or one "
            "sub-folder of images per class."
        )
    return labels_B


def finite(logits: Tensor) -> Tensor:
    """The logits; ValueError if one of them is no number."""
    if not logits.isfinite().all():
        raise ValueError("the model's logits are not finite (NaN or infinity): its weights or its precision are unfit.")
    return logits


def dtype_of(model: nn.Module, x_BCHW: Tensor) -> torch.dtype:
    """The data type in which a model takes images: its weights', or the images' own where no weight is a float."""
    return next((each.dtype for each in model.parameters() if each.is_floating_point()), x_BCHW.dtype)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The model in eval mode, each of its modules back in its own mode afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def check_device(device: torch.device | str) -> torch.device:
    """The device, if this machine has it; else ValueError."""
    try:
        return torch.empty(1, device=device).device  # with its index: "cuda" becomes "cuda:0"
    except (RuntimeError, AssertionError) as error:  # the latter from a torch built without CUDA
        here = "cpu, cuda" if torch.cuda.is_available() else "cpu"
        raise ValueError(f"device {str(device)!r} cannot be used; this machine has {here}.") from error


def count_images(batches: Iterable[Batch | tuple[Tensor, Tensor]]) -> int:
    """Images in all of the batches, skipped ones included; 0 if that cannot be told beforehand."""
    if isinstance(batches, ImageBatches):
        return batches.num_images
    if isinstance(batches, Sequence):
        return sum(len(batch[1]) + len(Batch(*batch).skipped) for batch in batches)
    return 0


def autocast(device: torch.device, amp: bool) -> Any:
    """A context with autocast to bf16, or to fp16 on a GPU without bf16; without amp one that does nothing."""
    if not amp:
        return nullcontext()
    half = device.type == "cuda" and not torch.cuda.is_bf16_supported()
    return torch.autocast(device.type, torch.float16 if half else torch.bfloat16)
