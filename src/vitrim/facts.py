"""What is to be known of each library beside how its blocks are read: one entry for one library.

Where the classes of a library have their head, their final norm and the part that takes images, which size their images
are, and what their outputs are called. Libraries are told by where a class is defined, so none is imported here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

from torch import nn


class ImageSize(NamedTuple):
    """A side, or height and width, and the part whose first convolution takes the channels."""

    size: Any
    part: nn.Module


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a library calls what its models have."""

    reads: str  # which of its models vitrim reads
    image_size: Callable[[Any], ImageSize | None]
    final_norms: tuple[str, ...]
    heads: tuple[str, ...] = ()  # of a classifier; timm's models have get_classifier
    classifiers: str = ""  # a part of the names of classes that have one
    outputs: tuple[str, ...] = ()  # of an output that is no tensor: logits, or features of an image
    towers: tuple[str, ...] = ()  # the part that takes images, beside one that takes texts
    is_extra: bool = True  # whether vitrim[...] brings it


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
    """The library that a model's class, or one that it extends, is defined in; None for one of no library."""
    homes = (cls.__module__.partition(".")[0] for cls in type(model).__mro__)
    return next((home for home in homes if home in FACTS), None)


def every(kind: str) -> tuple[str, ...]:
    """The names of that kind in all libraries, for models that hold one of a library inside."""
    return tuple(dict.fromkeys(chain.from_iterable(getattr(facts, kind) for facts in FACTS.values())))


def image_size_of(model: nn.Module) -> ImageSize | None:
    """The size of a model's images by what it was built for; None if it does not say so."""
    found = (facts.image_size(model) for facts in FACTS.values())
    return next((each for each in found if each is not None), None)
