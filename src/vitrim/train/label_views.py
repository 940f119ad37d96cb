"""Views of images whose place in the image is known, and the label map that belongs to each (token labeling).

The crop and the mirroring are those of timm's training transform, drawn in the same order, so a view has the same
pixels with label maps as without. What comes after them (RandAugment) may move things, and the labels do not follow.
Shape letters: B batch, C channels, H and W rows and columns, T classes listed per place of a label map.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from ..measure.images import ImageDataError
from .token_labeling import find_label_map, read_label_map


class LabelMap(NamedTuple):
    """The label map of an image, and where a view lies in it; batched, each with B in front."""

    map_2THW: Tensor
    crop_4: Tensor  # x, y, width and height as fractions of the image
    flipped: Tensor  # whether the view is mirrored left to right


class LabelViews:
    """Reads the label maps of images, and makes views of images that tell where they lie.

    folder: of label maps, laid out as the images are. transform: timm's for training.
    """

    def __init__(self, folder: Path, transform: Any):
        steps = list(transform.transforms)
        names = [type(step).__name__ for step in steps]
        if names[:1] != ["RandomResizedCropAndInterpolation"]:
            raise ValueError(f"label maps need a transform that begins with a random crop, and this is {names}.")
        self.folder, self.crop = folder, steps[0]
        mirrors = names[1:2] == ["RandomHorizontalFlip"]
        self.flip: float = steps[1].p if mirrors else 0.0
        self.rest = steps[2:] if mirrors else steps[1:]

    def check(self, names: Sequence[str]) -> None:
        """ValueError if there is no folder of maps, or none for the first of these images."""
        if not self.folder.is_dir():
            raise ValueError(f"recipe: there is no folder of label maps {self.folder}; label_maps none repeats labels.")
        try:
            self.read(names[0])
        except ImageDataError as error:
            raise ValueError(f"recipe: label_maps: {error}") from error

    def read(self, name: str) -> Tensor:
        """The label map of an image by its name in the folder of images; ImageDataError where there is none."""
        try:
            return read_label_map(find_label_map(self.folder, Path(name)))
        except (OSError, ValueError) as error:
            raise ImageDataError(str(error)) from error

    def look(self, image: Image.Image, map_2THW: Tensor) -> tuple[Tensor, LabelMap]:
        """One random view [C, H, W] of an image, and its label map."""
        from torchvision.transforms import functional

        # The draws of timm's crop and of torchvision's mirror, in their order.
        top, left, height, width = self.crop.get_params(image, self.crop.scale, self.crop.ratio)
        modes = self.crop.interpolation
        mode = random.choice(modes) if isinstance(modes, (tuple, list)) else modes
        whole: Any = image  # torchvision's annotations know tensors alone
        view: Any = functional.resized_crop(whole, top, left, height, width, self.crop.size, mode)
        flipped = self.flip > 0 and bool(torch.rand(1) < self.flip)
        view = functional.hflip(view) if flipped else view
        for step in self.rest:
            view = step(view)
        crop = torch.tensor([left, top, width, height]) / torch.tensor([image.width, image.height] * 2)
        return view, LabelMap(map_2THW, crop, torch.tensor(flipped))


def stacked(maps: Sequence[LabelMap]) -> LabelMap:
    """The label maps of a batch."""
    return LabelMap(*(torch.stack(parts) for parts in zip(*maps, strict=True)))
