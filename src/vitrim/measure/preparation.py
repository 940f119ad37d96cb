"""Preprocessing of images by the code of the model's own library, so that the pixels are those of the library.

The shape and the normalisation of a transform are found by trying it, not by reading its settings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from .pixels import MODES

Transform = Callable[[Image.Image], Tensor]
TRIED = ((61, 40), (40, 83), (640, 480))  # width and height: wide, tall, and larger than most models take


@dataclass(frozen=True)
class Preparation:
    """The transform of a library, the shape of its output, and its settings by their names in the library."""

    library: str
    transform: Transform
    input_size: tuple[int, int, int]  # channels, height, width
    settings: Mapping[str, Any]

    def __str__(self) -> str:
        settings = {key: value for key, value in self.settings.items() if value is not None}
        return f"{self.library}: {', '.join(f'{key} {_words(value)}' for key, value in settings.items())}"


class UnlikeShapes(ValueError):
    """The output shape of a transform depends on the image."""


def prepared_by(library: str, transform: Transform, channels: int, settings: Mapping[str, Any]) -> Preparation:
    """Wrap a transform. Raises UnlikeShapes if its output shape depends on the image."""
    with torch.device("cpu"):  # even while the model is built on another device
        shapes = [tuple(transform(Image.new(MODES[channels], size)).shape) for size in TRIED]
    if len(set(shapes)) > 1 or len(shapes[0]) != 3:
        raise UnlikeShapes(f"images of {TRIED[0]} and {TRIED[1]} pixels become {shapes[0]} and {shapes[1]}")
    height, width = shapes[0][1:]
    return Preparation(library, transform, (shapes[0][0], height, width), settings)


def given_to(model: nn.Module) -> Preparation | None:
    """Return the preparation that `load_model` attached to the model, if any."""
    found = getattr(model, "image_preparation", None)
    return found if isinstance(found, Preparation) else None


def as_seen(x_CHW: Tensor, transform: Transform) -> Image.Image:
    """Turn a model's input back into an image, resized and cropped, by undoing the normalisation."""
    mode, size = MODES[len(x_CHW)], (x_CHW.shape[2], x_CHW.shape[1])
    black, white = (transform(Image.new(mode, size, shade)) for shade in ("black", "white"))
    low, high = (each[:, each.shape[1] // 2, each.shape[2] // 2].view(-1, 1, 1) for each in (black, white))
    x_HWC = (((x_CHW - low) / (high - low)).clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0)
    return Image.fromarray(x_HWC.squeeze(2).numpy())


def _words(value: object) -> str:
    """A setting without brackets and quotes."""
    if isinstance(value, Mapping):
        return " ".join(f"{name} {_words(each)}" for name, each in value.items())
    return " ".join(map(_words, value)) if isinstance(value, tuple | list) else str(value)
