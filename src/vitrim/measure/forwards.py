"""The loop of a model over batches of images: device, data type, autocast, progress."""

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
    """The results of a loop over batches."""

    found: list[T]  # one for each batch with images
    num_images: int  # without skipped ones
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
    """Call `step` on each batch, in eval and inference mode.

    Args:
        model: It is moved to the device. Training modes are restored.
        batches: Images and labels.
        step: Takes images [B, C, H, W] and labels [B], on the device and in the data type of the model. Runs the model
            and returns a result.
        device: Where the model runs.
        amp: Use autocast to bf16, or to fp16 on a GPU without bf16.
        progress: Called after each batch with images done and their total (0 if unknown).
    """
    target, total = check_device(device), count_images(batches)
    found: list[T] = []
    skipped: list[str] = []
    num_images = 0
    with evaluating(model.to(target)), torch.inference_mode(), autocast(target, amp):
        for x_BCHW, labels_B, names in (Batch(*batch) for batch in batches):
            skipped += names
            if len(labels_B) > 0:
                num_images += len(labels_B)
                found.append(step(x_BCHW.to(target, dtype_of(model, x_BCHW)), labels_B.to(target)))
            if progress is not None:
                progress(num_images + len(skipped), total)
    return Forwards(found, num_images, tuple(skipped))


def check_labels(labels_B: Tensor) -> Tensor:
    """Return the labels. Raises ValueError if an image has none."""
    if int(labels_B.min()) < 0:
        raise ValueError(
            f"a label is {int(labels_B.min())}: accuracy needs images with labels, from a labels.csv or one "
            "sub-folder of images per class."
        )
    return labels_B


def finite(logits: Tensor) -> Tensor:
    """Return the logits. Raises ValueError if they are not all finite."""
    if not logits.isfinite().all():
        raise ValueError("the logits are not finite (NaN or infinity): check the weights and the precision.")
    return logits


def dtype_of(model: nn.Module, x_BCHW: Tensor) -> torch.dtype:
    """The data type of a model's input: that of its weights, or of the images if no weight is a float."""
    return next((each.dtype for each in model.parameters() if each.is_floating_point()), x_BCHW.dtype)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Set eval mode, and restore the mode of each module afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def check_device(device: torch.device | str) -> torch.device:
    """Return the device. Raises ValueError if this machine does not have it."""
    try:
        found = torch.empty(1, device=device).device  # with its index: "cuda" becomes "cuda:0"
        if found.type == "meta":
            raise RuntimeError("it holds no numbers")
        return found
    except (RuntimeError, AssertionError) as error:  # the latter from a torch built without CUDA
        here = "cpu, cuda" if torch.cuda.is_available() else "cpu"
        raise ValueError(f"device {str(device)!r} cannot be used; this machine has {here}.") from error


def count_images(batches: Iterable[Batch | tuple[Tensor, Tensor]]) -> int:
    """Count the images of all batches, including skipped ones. 0 if it is not known beforehand."""
    if isinstance(batches, ImageBatches):
        return batches.num_images
    if isinstance(batches, Sequence):
        return sum(len(batch[1]) + len(Batch(*batch).skipped) for batch in batches)
    return 0


def autocast(device: torch.device, amp: bool) -> Any:
    """Return a context: autocast to bf16, or to fp16 on a GPU without bf16. Without amp it does nothing."""
    if not amp:
        return nullcontext()
    half = device.type == "cuda" and not torch.cuda.is_bf16_supported()
    return torch.autocast(device.type, torch.float16 if half else torch.bfloat16)
