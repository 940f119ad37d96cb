"""Make views of images with known crops, and their label maps, for token labeling.

The crop and the flip are those of timm's training transform, drawn in the same order, so a view has the same pixels
with label maps as without. Later steps such as RandAugment may move pixels; the labels do not follow them.
Shape letters: B batch, C channels, H and W rows and columns, T classes listed per position of a label map.
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
    """The label map of an image and the crop of a view. In a batch, each tensor has B in front."""

    map_2THW: Tensor
    crop_4: Tensor  # x, y, width and height as fractions of the image
    flipped: Tensor  # whether the view is flipped left to right


class LabelViews:
    """Reads label maps, and makes views of images with known crops.

    folder: the label maps, in the same layout as the images. transform: timm's training transform.
    """

    def __init__(self, folder: Path, transform: Any):
        steps = list(transform.transforms)
        names = [type(step).__name__ for step in steps]
        if names[:1] != ["RandomResizedCropAndInterpolation"]:
            raise ValueError(f"label maps need a transform that begins with a random crop, not {names}.")
        self.folder, self.crop = folder, steps[0]
        flips = names[1:2] == ["RandomHorizontalFlip"]
        self.flip: float = steps[1].p if flips else 0.0
        self.rest = steps[2:] if flips else steps[1:]

    def check(self, names: Sequence[str]) -> None:
        """Raise ValueError if there is no folder of label maps, or no map for the first of these images."""
        if not self.folder.is_dir():
            raise ValueError(
                f"recipe: there is no folder of label maps {self.folder}: correct label_maps, or set it to none to use "
                "the image's label for all patches."
            )
        try:
            self.read(names[0])
        except ImageDataError as error:
            raise ValueError(f"recipe: label_maps: {error}") from error

    def read(self, name: str) -> Tensor:
        """Read the label map of an image, by its name in the folder of images; ImageDataError if there is none."""
        try:
            return read_label_map(find_label_map(self.folder, Path(name)))
        except (OSError, ValueError) as error:
            raise ImageDataError(str(error)) from error

    def look(self, image: Image.Image, map_2THW: Tensor) -> tuple[Tensor, LabelMap]:
        """Return one random view [C, H, W] of an image, and its label map."""
        from torchvision.transforms import functional

        # Draw the same random numbers as timm's crop and torchvision's flip, in the same order.
        top, left, height, width = self.crop.get_params(image, self.crop.scale, self.crop.ratio)
        modes = self.crop.interpolation
        mode = random.choice(modes) if isinstance(modes, (tuple, list)) else modes
        whole: Any = image  # torchvision's annotations allow tensors only
        view: Any = functional.resized_crop(whole, top, left, height, width, self.crop.size, mode)
        flipped = self.flip > 0 and bool(torch.rand(1) < self.flip)
        view = functional.hflip(view) if flipped else view
        for step in self.rest:
            view = step(view)
        crop = torch.tensor([left, top, width, height]) / torch.tensor([image.width, image.height] * 2)
        return view, LabelMap(map_2THW, crop, torch.tensor(flipped))


def stacked(maps: Sequence[LabelMap]) -> LabelMap:
    """Stack label maps into a batch."""
    return LabelMap(*(torch.stack(parts) for parts in zip(*maps, strict=True)))
