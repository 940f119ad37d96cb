"""transformers' image processors as a transform: the library's own object runs, so every entry is followed.

What it makes of images is tried once. Refused are processors that do not make all images alike, or not as the model
wants them.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ..extras import import_module
from ..text import first_line
from .preparation import Preparation, UnlikeShapes, prepared_by

FILE = "preprocessor_config.json"
LEFT_OUT = ("processor_class", "auto_map", "image_processor_type", "feature_extractor_type", "model_input_names")


@dataclass(frozen=True)
class Processed:
    """An image processor for one image at a time."""

    processor: Any

    def __call__(self, image: Image.Image) -> Tensor:
        """The image as the model takes it: [C, H, W]."""
        found = self.processor(image, return_tensors="pt")
        x_CHW: Tensor = found["pixel_values"][0]
        return x_CHW


def processor_of(path: str) -> Any:
    """The image processor that a folder or repository names."""
    return import_module("transformers").AutoImageProcessor.from_pretrained(path)


def preparation_at(path: str, config: Any) -> Preparation:
    """For a model that transformers loaded from there; ValueError if there is no image processor."""
    try:
        processor = processor_of(path)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"there is no image processor at {path}, where the model is from ({first_line(error)}): pass a transform "
            "to evaluate_folder, or batches of images to evaluate."
        ) from error
    return preparation(path, processor, getattr(config, "vision_config", config))


def preparation(name: str, processor: Any, config: Any) -> Preparation:
    """What the processor does for the model of that configuration; ValueError naming the entry that does not fit."""
    told, settings = f"the image processor of transformers:{name}", _settings(processor)
    channels = int(getattr(config, "num_channels", 3))
    if settings.get("do_normalize"):
        for entry in ("image_mean", "image_std"):
            values = settings.get(entry)
            if isinstance(values, (list, tuple)) and len(values) != channels:
                raise ValueError(
                    f"{told} has {len(values)} values of {entry}, and the model takes {channels} channels: set as many "
                    f"in its {FILE}."
                )
    try:
        return prepared_by(f"transformers {type(processor).__name__}", Processed(processor), channels, settings)
    except UnlikeShapes as error:
        raise ValueError(
            f"{told} has {_shape_entry(settings)}, which does not make all images alike: {error}."
        ) from error
    except Exception as error:  # whatever the library raises on entries that it cannot follow
        raise ValueError(
            f"{told} cannot prepare an image ({first_line(error)}): it has {_shape_entry(settings)}, which does not "
            f"make all images alike, or other entries in its {FILE} that do not fit the model."
        ) from error


def check_size(name: str, cls: Any, config: Any, prepared: Preparation) -> None:
    """ValueError if the model would refuse images of that size; a model of one block without weights is asked."""
    own, shape = getattr(config, "image_size", None), prepared.input_size
    if shape[1:] == (own, own):
        return
    small = copy.deepcopy(config)
    if hasattr(small, "num_hidden_layers"):
        small.num_hidden_layers = 1
    try:
        with torch.device("meta"), torch.no_grad():
            cls(small).eval()(torch.empty(1, *shape))
    except (ValueError, RuntimeError, TypeError) as error:
        raise ValueError(
            f"the image processor of transformers:{name} makes images of {shape[1]} x {shape[2]} pixels "
            f"({_shape_entry(prepared.settings)}), and the model takes {own} ({first_line(error)}): set size in its "
            f"{FILE}."
        ) from error


def _settings(processor: Any) -> dict[str, Any]:
    """Its entries as plain values."""
    return {key: value for key, value in processor.to_dict().items() if key not in LEFT_OUT}


def _shape_entry(settings: Any) -> str:
    """The entries that decide on the shape."""
    if settings.get("do_resize") is False and not settings.get("do_center_crop"):
        return "do_resize false and no crop"
    size = f"the size {settings.get('size')}"
    return f"{size} and the crop_size {settings.get('crop_size')}" if settings.get("do_center_crop") else size
