"""How an image becomes a model's input: by the code of the model's own library, so that the pixels are the library's.

What a transform does to an image is found by trying it, so none has to be understood.
Shape letters: C channels, H height, W width.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from .pixels import MODES

Transform = Callable[[Image.Image], Tensor]
TRIED = ((61, 40), (40, 83), (640, 480))  # width and height of images: wide, tall, and larger than most models take


@dataclass(frozen=True)
class Preparation:
    """A library's transform, the shape that it gives to every image, and its settings by the library's names."""

    library: str
    transform: Transform
    input_size: tuple[int, int, int]  # channels, height, width
    settings: Mapping[str, Any]

    def __str__(self) -> str:
        settings = {key: value for key, value in self.settings.items() if value is not None}
        return f"{self.library}: {json.dumps(settings, default=str)}"


class UnlikeShapes(ValueError):
    """A transform that gives images of another shape another shape."""


def prepared_by(library: str, transform: Transform, channels: int, settings: Mapping[str, Any]) -> Preparation:
    """The preparation that a transform is; UnlikeShapes if it does not make all images alike."""
    with torch.device("cpu"):  # whatever the device on which the model is built
        shapes = [tuple(transform(Image.new(MODES[channels], size)).shape) for size in TRIED]
    if len(set(shapes)) > 1 or len(shapes[0]) != 3:
        raise UnlikeShapes(f"images of {TRIED[0]} and {TRIED[1]} pixels become {shapes[0]} and {shapes[1]}")
    height, width = shapes[0][1:]
    return Preparation(library, transform, (shapes[0][0], height, width), settings)


def given_to(model: nn.Module) -> Preparation | None:
    """The preparation that came with the model, from `load_model`."""
    found = getattr(model, "image_preparation", None)
    return found if isinstance(found, Preparation) else None


def as_seen(x_CHW: Tensor, transform: Transform) -> Image.Image:
    """The image back from a model's input: resized and cropped, its normalisation undone."""
    mode, size = MODES[len(x_CHW)], (x_CHW.shape[2], x_CHW.shape[1])
    black, white = (transform(Image.new(mode, size, shade)) for shade in ("black", "white"))
    low, high = (each[:, each.shape[1] // 2, each.shape[2] // 2].view(-1, 1, 1) for each in (black, white))
    x_HWC = (((x_CHW - low) / (high - low)).clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0)
    return Image.fromarray(x_HWC.squeeze(2).numpy())
