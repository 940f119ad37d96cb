"""Load augmented views of the training images, the same for any number of processes and workers.

The images of an update and their augmentation depend only on the seed and the number of the view. So a resumed run gets
the same views as an uninterrupted one, and two processes together get the same views as one.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from ..measure.images import ImageDataError, LabelledImages, open_image
from .label_views import LabelMap, LabelViews, stacked

Transform = Callable[[Image.Image], Tensor]
MOST_IN_A_ROW = 100  # unreadable images in a row that end a run


class View(NamedTuple):
    """One augmented view of one image."""

    number: int  # among all views of the run
    image: int  # index of the image


class Views(NamedTuple):
    """A batch for one process."""

    x_BCHW: Tensor
    labels_B: Tensor
    unreadable: dict[str, str]  # file -> why it could not be read
    label_maps: LabelMap | None = None  # for token labeling
    failure: str = ""  # why there is no batch; a value, since an error in a worker process would become a traceback


class ViewedImage(NamedTuple):
    """One decoded and transformed view."""

    x_CHW: Tensor | None  # None if too many images in a row could not be read
    label: int
    unreadable: dict[str, str]
    label_map: LabelMap | None = None


class TrainingImages(Dataset[ViewedImage]):
    """Decodes and augments views. An unreadable image is replaced by the next one in the folder's order.

    label_views: makes the views in place of the transform if there are label maps.
    """

    def __init__(
        self,
        images: LabelledImages,
        transform: Transform,
        channels: int,
        seed: int,
        label_views: LabelViews | None = None,
    ):
        self.images, self.transform, self.channels, self.seed = images, transform, channels, seed
        self.label_views = label_views

    def __getitem__(self, view: View) -> ViewedImage:
        unreadable: dict[str, str] = {}
        for step in range(min(MOST_IN_A_ROW, len(self.images))):
            index = (view.image + step) % len(self.images)
            try:
                x_CHW, label_map = self._look(index, view.number)
            except ImageDataError as error:
                unreadable[self.images.name(index)] = str(error)
                continue
            return ViewedImage(x_CHW, self.images.labels[index], unreadable, label_map)
        return ViewedImage(None, 0, unreadable)

    def _look(self, index: int, number: int) -> tuple[Tensor, LabelMap | None]:
        image = open_image(self.images.files[index], self.channels)
        map_2THW = None if self.label_views is None else self.label_views.read(self.images.name(index))
        with seeded(self.seed, number):
            if self.label_views is None or map_2THW is None:
                return self.transform(image), None
            return self.label_views.look(image, map_2THW)


class ViewSampler(Sampler[list[View]]):
    """The views of one process from first_step up to num_steps: one list per accumulated part of an update.

    Each epoch is shuffled anew, and its last incomplete batch is dropped. repeats: views of each image in a row. An
    epoch then covers fewer images.
    """

    def __init__(
        self,
        num_images: int,
        *,
        batch_size: int,
        num_steps: int,
        first_step: int = 0,
        rank: int = 0,
        world_size: int = 1,
        accumulate: int = 1,
        repeats: int = 1,
        seed: int = 0,
    ):
        if batch_size % (world_size * accumulate):
            raise ValueError(
                f"a batch of {batch_size} images cannot be split evenly over {world_size} processes and {accumulate} "
                f"accumulated parts: choose a multiple of {world_size * accumulate}."
            )
        if num_images < batch_size:
            raise ValueError(
                f"{num_images} training images are fewer than one batch of {batch_size}: choose a smaller batch_size."
            )
        self.num_images, self.batch_size = num_images, batch_size
        self.num_steps, self.first_step = num_steps, first_step
        self.rank, self.world_size = rank, world_size
        self.accumulate, self.repeats, self.seed = accumulate, repeats, seed
        self.steps_per_epoch = num_images // batch_size

    def __len__(self) -> int:
        return (self.num_steps - self.first_step) * self.accumulate

    def __iter__(self) -> Iterator[list[View]]:
        epoch, order = -1, torch.empty(0)
        for step in range(self.first_step, self.num_steps):
            if step // self.steps_per_epoch != epoch:
                epoch = step // self.steps_per_epoch
                order = self._order(epoch)
            start = (step % self.steps_per_epoch) * self.batch_size
            indices = order[start : start + self.batch_size].tolist()
            views = [View(step * self.batch_size + i, index) for i, index in enumerate(indices)]
            mine = views[self.rank :: self.world_size]
            part = len(mine) // self.accumulate
            yield from (mine[i * part : (i + 1) * part] for i in range(self.accumulate))

    def _order(self, epoch: int) -> Tensor:
        generator = torch.Generator().manual_seed(mix(self.seed, epoch))
        order = torch.randperm(self.num_images, generator=generator)
        return order.repeat_interleave(self.repeats)[: self.num_images]


def view_loader(
    dataset: TrainingImages, sampler: ViewSampler, workers: int, *, pin: bool = False
) -> DataLoader[ViewedImage]:
    """Return a loader of batches of views, in the sampler's order."""
    return DataLoader(dataset, batch_sampler=sampler, num_workers=workers, collate_fn=_collate, pin_memory=pin)


@contextmanager
def seeded(seed: int, number: int) -> Iterator[None]:
    """Seed Python's, NumPy's and torch's CPU generators in the with block, and restore their states afterwards."""
    states = random.getstate(), np.random.get_state(), torch.random.get_rng_state()
    seed_all(seed, number)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.random.set_rng_state(states[2])


def seed_all(*numbers: int) -> None:
    """Seed Python's, NumPy's and torch's generators from these numbers."""
    value = mix(*numbers)
    random.seed(value)
    np.random.seed(value % 2**32)
    torch.manual_seed(value)


def mix(*numbers: int) -> int:
    """Hash several numbers into one of 63 bits."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


def _collate(samples: list[ViewedImage]) -> Views:
    unreadable: dict[str, str] = {}
    for sample in samples:
        unreadable |= sample.unreadable
    maps = [sample.label_map for sample in samples if sample.label_map is not None]
    read = [sample.x_CHW for sample in samples if sample.x_CHW is not None]
    if len(read) < len(samples):
        lost = next(sample.unreadable for sample in samples if sample.x_CHW is None)
        failure = f"{len(lost)} training images in a row cannot be read, the last: {list(lost.values())[-1]}"
        return Views(torch.empty(0), torch.empty(0), unreadable, failure=failure)
    labels_B = torch.tensor([sample.label for sample in samples])
    return Views(torch.stack(read), labels_B, unreadable, stacked(maps) if maps else None)
