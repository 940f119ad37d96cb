"""Image processors of transformers as transforms. The library's own object runs, so all its settings apply.

A processor is tried once. It is refused if its images differ in shape, or do not fit the model.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ..facts import import_module
from ..text import first_line
from .preparation import Preparation, UnlikeShapes, prepared_by

FILE = "preprocessor_config.json"
LEFT_OUT = ("processor_class", "auto_map", "image_processor_type", "feature_extractor_type", "model_input_names")


@dataclass(frozen=True)
class Processed:
    """Apply an image processor to one image at a time."""

    processor: Any

    def __call__(self, image: Image.Image) -> Tensor:
        """Preprocess an image: [C, H, W]."""
        found = self.processor(image, return_tensors="pt")
        x_CHW: Tensor = found["pixel_values"][0]
        return x_CHW


def processor_of(path: str) -> Any:
    """Load the image processor of a folder or repository."""
    library = import_module("transformers")
    found = library.AutoImageProcessor.from_pretrained(path)
    if not isinstance(found, library.ImageProcessingMixin):
        raise ValueError(f"its {FILE} names a {type(found).__name__}, which is no image processor")
    return found


def preparation_of(model: Any) -> Preparation | None:
    """Return the preprocessing of a model that transformers loaded. None if it does not know its origin.

    Raises ValueError if its folder or repository has no image processor.
    """
    config = getattr(model, "config", None)
    if not (path := getattr(config, "_name_or_path", "")):
        return None
    try:
        processor = processor_of(path)
    except Exception as error:  # transformers raises various errors for odd settings
        raise ValueError(
            f"there is no image processor at {path}, the origin of the model ({first_line(error)}): pass a transform "
            "to evaluate_folder, or batches of images to evaluate."
        ) from error
    return preparation(path, processor, getattr(config, "vision_config", config))


def preparation(name: str, processor: Any, config: Any) -> Preparation:
    """Wrap an image processor for a model. Raises ValueError with the setting that does not fit."""
    subject, settings = f"the image processor of transformers:{name}", _settings(processor)
    channels = int(getattr(config, "num_channels", 3))
    if settings.get("do_normalize"):
        for entry in ("image_mean", "image_std"):
            values = settings.get(entry)
            if isinstance(values, (list, tuple)) and len(values) != channels:
                raise ValueError(
                    f"{subject} has {len(values)} values of {entry}, but the model takes {channels} channels: "
                    f"correct its {FILE}."
                )
    try:
        return prepared_by(f"transformers {type(processor).__name__}", Processed(processor), channels, settings)
    except UnlikeShapes as error:
        raise ValueError(
            f"{subject} has {_shape_entry(settings)}, so the shapes of its images differ: {error}."
        ) from error
    except Exception as error:  # the library raises various errors on invalid settings
        raise ValueError(
            f"{subject} cannot prepare an image ({first_line(error)}): check {_shape_entry(settings)} and the other "
            f"settings in its {FILE}."
        ) from error


def check_size(name: str, cls: Any, config: Any, prepared: Preparation) -> None:
    """Raise ValueError if the model does not take images of this size. Tries one block without weights."""
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
            f"({_shape_entry(prepared.settings)}), but the model takes {own} ({first_line(error)}): set size in its "
            f"{FILE}."
        ) from error


def _settings(processor: Any) -> dict[str, Any]:
    """Return the settings as plain values."""
    return {key: value for key, value in processor.to_dict().items() if key not in LEFT_OUT}


def _shape_entry(settings: Any) -> str:
    """Name the settings that determine the shape."""
    if settings.get("do_resize") is False and not settings.get("do_center_crop"):
        return "do_resize false and no crop"
    size = f"the size {settings.get('size')}"
    return f"{size} and the crop_size {settings.get('crop_size')}" if settings.get("do_center_crop") else size
