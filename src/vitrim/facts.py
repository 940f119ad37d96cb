"""Facts about each library, beside how to read its blocks. One entry per library.

They name the head, the final norm, the part that takes images, the image size and the outputs. A library is recognised
by the module that defines a class, so none is imported here.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

from torch import nn


class ImageSize(NamedTuple):
    """A side, or height and width, and the module whose first convolution takes the image."""

    size: Any
    part: nn.Module


@dataclass(frozen=True, kw_only=True)
class Facts:
    """The names that a library uses."""

    reads: str  # which of its models vitrim reads
    image_size: Callable[[Any], ImageSize | None]
    final_norms: tuple[str, ...]
    heads: tuple[str, ...] = ()  # classifier heads; timm's models have get_classifier
    classifiers: str = ""  # part of the names of classes with a head
    outputs: tuple[str, ...] = ()  # fields of an output with logits or image features
    towers: tuple[str, ...] = ()  # the part that takes images in a model for images and texts
    is_extra: bool = True  # whether it is an extra, vitrim[...]


def _of_embedding(model: Any) -> ImageSize | None:
    embed = getattr(model, "patch_embed", None)
    size = getattr(embed, "img_size", None)
    return ImageSize(size, embed) if size is not None and isinstance(embed, nn.Module) else None


def _of_model(model: Any) -> ImageSize | None:
    size = getattr(model, "image_size", None)
    return None if size is None else ImageSize(size, model)


def _of_tower(model: Any) -> ImageSize | None:
    tower = getattr(model, "visual", model)
    return _of_embedding(tower) or _of_model(tower)


def _of_config(model: Any) -> ImageSize | None:
    config = getattr(model, "config", None)
    size = getattr(getattr(config, "vision_config", config), "image_size", None)
    if size is not None and getattr(model, "main_input_name", "pixel_values") != "pixel_values":
        raise ValueError(f"{type(model).__name__} takes more than images: pass the part that takes images alone.")
    return None if size is None else ImageSize(size, model)


FACTS = {
    "timm": Facts(
        reads=(
            "timm Vision Transformers (ViT, DeiT, DeiT-III, DINOv2, DINOv3, EVA, EVA02, Perception Encoder, CLIP and "
            "SigLIP vision towers)"
        ),
        image_size=_of_embedding,
        final_norms=("norm",),
        is_extra=False,
    ),
    "torchvision": Facts(
        reads="torchvision's ViT",
        image_size=_of_model,
        final_norms=("ln",),
        heads=("heads", "head", "fc", "classifier"),
        is_extra=False,
    ),
    "transformers": Facts(
        reads="transformers' ViT, DeiT, DINOv2, DINOv3, CLIP and SigLIP",
        image_size=_of_config,
        final_norms=("norm", "layernorm", "post_layernorm"),
        heads=("classifier", "cls_classifier"),
        classifiers="ForImageClassification",
        outputs=("logits", "image_embeds", "pooler_output"),
        towers=("vision_model",),
    ),
    "open_clip": Facts(
        reads="open_clip's vision towers",
        image_size=_of_tower,
        final_norms=("ln_post",),
        towers=("visual",),
    ),
}


def library_of(model: nn.Module) -> str | None:
    """The library that defines a model's class or a base of it; None if there is none."""
    homes = (cls.__module__.partition(".")[0] for cls in type(model).__mro__)
    return next((home for home in homes if home in FACTS), None)


def every(kind: str) -> tuple[str, ...]:
    """The names of one kind in all libraries, for models that contain a library's model."""
    return tuple(dict.fromkeys(chain.from_iterable(getattr(facts, kind) for facts in FACTS.values())))


def image_size_of(model: nn.Module) -> ImageSize | None:
    """The image size that a model was built for; None if it does not say."""
    found = (facts.image_size(model) for facts in FACTS.values())
    return next((each for each in found if each is not None), None)


def import_module(name: str) -> Any:
    """Import an optional library, or a module of one. If that fails, a ValueError says how to install it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        library = name.partition(".")[0]
        package = f'"vitrim[{library}]"' if library in FACTS and FACTS[library].is_extra else library
        raise ValueError(f"{library} is not installed: pip install {package}.") from error
