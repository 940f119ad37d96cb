"""Batches of decoded images. They stay in memory if they fit; otherwise each pass decodes them again.

Decoding an ImageNet image takes about 3 ms on one core, so a comparison of many models keeps the tensors.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from ..kinds import is_whole
from .images import ImageDataError, LabelledImages, open_image
from .preparation import Transform

MAX_BYTES = 2 * 1024**3  # of tensors kept in memory
# torch gives an error of a worker process as the text of its traceback. The last line has the class and the words.
IN_WORKER = re.compile(r"\ACaught \w+ in DataLoader worker process.*\n(?:ValueError: )?(.+?)\.?\s*\Z", re.DOTALL)
FEW_IMAGES = 512  # up to this number, worker processes take longer to start than they save

Progress = Callable[[int, int], None]  # called with images done and their total


class Batch(NamedTuple):
    """Decoded images, their class indices (-1 for none), and the names of unreadable images."""

    x_BCHW: Tensor
    labels_B: Tensor
    skipped: tuple[str, ...] = ()


class Sample(NamedTuple):
    """A decoded image, or None and the reason. Failures are values because worker processes share no state."""

    x_CHW: Tensor | None
    label: int
    name: str
    failure: str = ""


class ImageDataset(Dataset[Sample]):
    """Decode and transform one image at a time, in any process."""

    def __init__(self, images: LabelledImages, transform: Transform, channels: int):
        self.images, self.transform, self.channels = images, transform, channels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Sample:
        label, name = self.images.labels[index], self.images.name(index)
        try:
            image = open_image(self.images.files[index], self.channels)
        except ImageDataError as error:
            return Sample(None, label, name, str(error))
        x_CHW = self.transform(image)
        if not isinstance(x_CHW, Tensor) or x_CHW.ndim != 3:
            got = list(x_CHW.shape) if isinstance(x_CHW, Tensor) else type(x_CHW).__name__
            raise ValueError(f"the transform made {got} of {name}, and a tensor [C, H, W] is wanted.")
        return Sample(x_CHW, label, name)


@dataclass(frozen=True)
class ImageBatches:
    """Batches of images, for any number of passes."""

    batches: Iterable[Batch]
    images: LabelledImages  # including unreadable ones
    in_memory: bool

    @property
    def num_images(self) -> int:
        """Number of images, including unreadable ones."""
        return len(self.images)

    def __iter__(self) -> Iterator[Batch]:
        return iter(self.batches)

    def sample(self, most: int) -> Tensor:
        """Return at most `most` readable images, evenly spread: [I, C, H, W]."""
        step, found = max(1.0, self.num_images / most), []
        position, wanted = 0, 0.0
        for batch in self:
            for x_CHW in batch.x_BCHW[: len(batch.labels_B)]:
                if position >= wanted:
                    found.append(x_CHW)
                    wanted += step
                position += 1
        if not found:
            raise ValueError("there are no images to sample.")
        return torch.stack(found)


def image_batches(
    images: LabelledImages,
    transform: Transform,
    channels: int,
    *,
    batch_size: int = 32,
    skip_bad: bool = False,
    num_workers: int | None = None,
    max_bytes: int = MAX_BYTES,
    progress: Progress | None = None,
) -> ImageBatches:
    """Batch the images in their order, and keep them in memory if the tensors take at most max_bytes in total.

    Args:
        skip_bad: leave out unreadable images, and list them in `Batch.skipped`. Otherwise the first one raises
            ImageDataError.
        num_workers: decoding processes. None: chosen for this machine.
    """
    if not is_whole(batch_size, 1):
        raise ValueError(f"the batch size must be a whole number of at least 1, not {batch_size!r}.")
    dataset = ImageDataset(images, transform, channels)
    workers = _num_workers(len(images)) if num_workers is None else num_workers
    stream = _Stream(DataLoader(dataset, batch_size, num_workers=workers, collate_fn=_collate), skip_bad)
    if max_bytes == 0 or not 0 < _num_bytes(dataset) <= max_bytes:
        return ImageBatches(stream, images, in_memory=False)
    kept, done = [], 0
    for batch in stream:
        kept.append(batch)
        done += len(batch.labels_B) + len(batch.skipped)
        if progress is not None:
            progress(done, len(images))
    return ImageBatches(kept, images, in_memory=True)


@dataclass(frozen=True)
class _Stream:
    """Decode all images on every pass."""

    loader: DataLoader[Sample]  # with collate_fn=_collate
    skip_bad: bool

    def __iter__(self) -> Iterator[Batch]:
        with one_pass(self.loader) as decoded:
            while (found := _next(decoded)) is not None:
                batch, failure = found
                if failure and not self.skip_bad:
                    raise ImageDataError(f"{failure} Use --skip-bad, or skip_bad=True, to leave such files out.")
                yield batch


@contextmanager
def one_pass(loader: DataLoader[Any]) -> Iterator[Iterator[Any]]:
    """Iterate over a loader. Its worker processes end with the with block.

    Otherwise the garbage collector ends them after an error. It closes their queues first, so they do not hear that
    they should end, and torch waits five seconds for each.
    """
    with torch.random.fork_rng(devices=[]):  # the loader draws a random number for its workers
        found = iter(loader)
    try:
        yield found
    finally:
        if isinstance(found, _MultiProcessingDataLoaderIter):
            found._shutdown_workers()


def _collate(samples: list[Sample]) -> tuple[Batch, str]:
    """Batch the decoded images. Also returns the reason of the first failure."""
    decoded = [sample.x_CHW for sample in samples if sample.x_CHW is not None]
    labels = [sample.label for sample in samples if sample.x_CHW is not None]
    failed = [sample for sample in samples if sample.x_CHW is None]
    if len({x_CHW.shape for x_CHW in decoded}) > 1:
        shapes = " and ".join(dict.fromkeys(str(list(x_CHW.shape)) for x_CHW in decoded))
        raise ValueError(f"the transform makes images of several shapes, {shapes}: let it make all alike.")
    x_BCHW = torch.stack(decoded) if decoded else torch.empty(0)
    batch = Batch(x_BCHW, torch.tensor(labels, dtype=torch.long), tuple(sample.name for sample in failed))
    return batch, failed[0].failure if failed else ""


def _next(decoded: Iterator[tuple[Batch, str]]) -> tuple[Batch, str] | None:
    """Return the next batch. Decode on one thread: an image is too little work for several."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return next(decoded, None)
    except (ConnectionError, EOFError) as error:  # the worker was about to send a batch
        raise RuntimeError("a DataLoader worker exited unexpectedly") from error
    except Exception as error:
        if (said := IN_WORKER.search(str(error))) is None:
            raise
        raise ValueError(f"{said[1]}.") from error
    finally:
        torch.set_num_threads(before)


def _num_bytes(dataset: ImageDataset) -> int:
    """Size of all tensors, estimated from the first readable image. 0 without one."""
    samples = (dataset[i].x_CHW for i in range(len(dataset)))
    first = next((x_CHW for x_CHW in samples if x_CHW is not None), None)
    return 0 if first is None else first.nbytes * len(dataset)


def num_cores() -> int:
    """The number of cores available to this process."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _num_workers(num_images: int) -> int:
    cores = num_cores()
    return 0 if cores <= 2 or num_images <= FEW_IMAGES else min(8, cores - 1)
