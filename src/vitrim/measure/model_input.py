"""The input of a model: its preprocessing, as its own library does it, and the size of its images."""

from __future__ import annotations

from typing import Any

from torch import nn

from ..facts import image_size_of, library_of
from . import image_processor
from .preparation import Preparation, Transform, given_to


def eval_transform(model: nn.Module) -> Transform:
    """Return the evaluation transform of a model: image -> [C, H, W], normalised."""
    return preparation_of(model).transform


def preparation_of(model: nn.Module) -> Preparation:
    """Return the preprocessing of a model, as its library does it.

    A model loaded by `load_model` brings it along. For transformers it comes from the folder or repository of the
    model; for timm and plain modules it is timm's evaluation transform. Raises ValueError if there is none.
    """
    if (given := given_to(model)) is not None:
        return given
    library = library_of(model)
    if library == "transformers" and (found := image_processor.preparation_of(model)) is not None:
        return found
    if library not in (None, "timm"):
        raise ValueError(
            f"{type(model).__name__} of {library} does not say how its images are prepared: load it by name "
            f"({library}:NAME), pass a transform to evaluate_folder, or pass batches of images to evaluate."
        )
    from timm import data

    timm_data: Any = data  # untyped
    config = data_config(model)
    return Preparation("timm", timm_data.create_transform(**config, is_training=False), config["input_size"], config)


def data_config(model: nn.Module) -> dict[str, Any]:
    """Return timm's data config: input_size, mean, std, interpolation, crop_pct, crop_mode."""
    from timm import data

    size = input_size_of(model)
    timm_data: Any = data  # untyped
    config: dict[str, Any] = timm_data.resolve_model_data_config(model, args={"input_size": size})
    for key in ("mean", "std"):
        if len(config[key]) not in (3, size[0]):
            raise ValueError(f"{key} has {len(config[key])} values, and images have {size[0]} channels.")
        if len(config[key]) != size[0]:  # timm's default has three channels; use their mean for gray
            config[key] = (sum(config[key]) / len(config[key]),) * size[0]
    return config


def input_size_of(model: nn.Module) -> tuple[int, int, int]:
    """Return channels, height and width of a model's images: of its preprocessing, or as it was built."""
    if (given := given_to(model)) is not None:
        return given.input_size
    found = image_size_of(model)
    parts = () if found is None else found.part.modules()
    first = next((part for part in parts if isinstance(part, nn.Conv2d)), None)
    if found is not None and first is not None:
        height, width = (found.size, found.size) if isinstance(found.size, int) else found.size
        return first.in_channels, int(height), int(width)
    config = getattr(model, "pretrained_cfg", None) or {}
    if config.get("input_size") is None:
        raise ValueError(f"{type(model).__name__} does not say its image size: pass input_size.")
    channels, height, width = config["input_size"]
    return channels, height, width
