"""Models of torchvision, transformers and open_clip by name, prepared so that every command takes them.

    torchvision:vit_b_16                                 its name, weights by torchvision or from --checkpoint
    transformers:facebook/dinov2-small-imagenet1k-1-layer   a repository of the hub, or a folder of save_pretrained
    open_clip:ViT-B-32/laion2b_s34b_b79k                 the vision tower; weights after the slash, random without

How a library wants its images becomes the model's `pretrained_cfg`, from which one transform, timm's, is made for
all; the libraries' own resizing differs from it by rounding. `num_classes` is set where the model has classes.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from .network import check_answer, check_hub
from .weight_files import check_fit, read_checkpoint


class Library(NamedTuple):
    """How a library's models come by name: without weights, and with them (from a checkpoint if one is given)."""

    build: Callable[[str, int | None], nn.Module]
    load: Callable[[str, Path | None, int | None], nn.Module]


def split_name(name: str) -> tuple[str, str] | None:
    """('torchvision', 'vit_b_16') for 'torchvision:vit_b_16'; None for a name of timm's, or a folder."""
    library, colon, rest = name.partition(":")
    return (library, rest) if colon and library in LIBRARIES else None


def build(library: str, name: str, img_size: int | None) -> nn.Module:
    """The model in eval mode with random weights; nothing but a configuration is downloaded."""
    return LIBRARIES[library].build(name, img_size).eval()


def load(library: str, name: str, checkpoint: Path | None, img_size: int | None) -> nn.Module:
    """The model in eval mode with its weights. ValueError for what does not fit, OSError for what cannot be had."""
    try:
        return LIBRARIES[library].load(name, checkpoint, img_size).eval()
    except OSError as error:
        if checkpoint is not None:
            raise
        what = "name a folder" if library == "transformers" else "pass --checkpoint FILE"
        raise OSError(
            f"the weights of {library}:{name} cannot be had, is there a network? {what} to use weights on this machine "
            f"({error})."
        ) from error


def _build_torchvision(name: str, img_size: int | None) -> nn.Module:
    models: Any = _import("torchvision").models
    if name not in models.list_models():
        known = ", ".join(each for each in models.list_models() if each.startswith("vit_"))
        raise ValueError(f"torchvision has no model {name!r}; its Vision Transformers are {known}.")
    size = {} if img_size is None else {"image_size": img_size}
    try:
        model = models.get_model(name, weights=None, **size)
    except (TypeError, ValueError, RuntimeError) as error:  # an architecture without sizes, or no multiple of a patch
        raise ValueError(f"torchvision:{name} cannot be built for images of {img_size} pixels: {error}") from error
    recipe = models.get_model_weights(name).DEFAULT.transforms()
    pixels = getattr(model, "image_size", recipe.crop_size[0])
    crop = recipe.crop_size[0] / recipe.resize_size[0]
    _describe(model, pixels, recipe.mean, recipe.std, recipe.interpolation.value, crop, "center")
    model.num_classes = getattr(list(model.modules())[-1], "out_features", 0)
    return model


def _load_torchvision(name: str, checkpoint: Path | None, img_size: int | None) -> nn.Module:
    model: Any = _build_torchvision(name, img_size)
    if checkpoint is not None:
        state: Any = read_checkpoint(checkpoint)
    else:
        state = _import("torchvision").models.get_model_weights(name).DEFAULT.get_state_dict(progress=False)
    if img_size is not None and "encoder.pos_embedding" in state:
        resample = _import("torchvision.models.vision_transformer").interpolate_embeddings
        state = resample(img_size, model.patch_size, dict(state))
    check_fit(model, state, f"torchvision:{name}", checkpoint or Path(name))
    model.load_state_dict(state)
    return model


def _build_transformers(name: str, img_size: int | None) -> nn.Module:
    return _transformers(name, img_size, lambda cls, config: cls(config))


def _load_transformers(name: str, checkpoint: Path | None, img_size: int | None) -> nn.Module:
    if checkpoint is not None:
        raise ValueError(f"transformers:{name} brings its weights; give the folder with the weights you want instead.")
    _import("transformers.utils.logging").disable_progress_bar()
    return _transformers(name, img_size, lambda cls, _: cls.from_pretrained(name))


def _transformers(name: str, img_size: int | None, make: Callable[[Any, Any], Any]) -> nn.Module:
    library: Any = _import("transformers")
    if img_size is not None:
        raise ValueError(f"--img-size does not apply to transformers:{name}: set image_size in its configuration.")
    if name.startswith(("/", ".", "~")) and not Path(name).is_dir():
        raise FileNotFoundError(f"there is no folder {name}.")
    if not Path(name).is_dir():
        check_hub(name, "model.safetensors")
    try:
        config = library.AutoConfig.from_pretrained(name)
        processor = library.AutoImageProcessor.from_pretrained(name).to_dict()
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"transformers:{name} is no model with a configuration and an image processor: {reason}"
        ) from error
    cls = getattr(library, (config.architectures or [""])[0], None)
    if cls is None:
        raise ValueError(
            f"transformers:{name} names the architecture {config.architectures}, which is not in transformers."
        )
    model: Any = make(cls, config)
    _describe(model, *_processing(processor))
    model.num_classes = config.num_labels if "ForImageClassification" in cls.__name__ else 0
    return model


def _processing(processor: dict[str, Any]) -> tuple[Any, ...]:
    """Size, mean, deviation, interpolation, crop share and crop mode of an image processor of transformers."""
    size, crop = processor["size"], processor.get("crop_size") if processor.get("do_center_crop") else None
    names = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}
    mean, std = (
        (processor["image_mean"], processor["image_std"]) if processor.get("do_normalize") else ((0,) * 3, (1,) * 3)
    )
    resized = size.get("shortest_edge", size.get("height"))
    pixels = crop["height"] if crop else resized
    mode = "center" if "shortest_edge" in size else "squash"
    return pixels, mean, std, names[int(processor.get("resample", 2))], pixels / resized, mode


def _build_open_clip(name: str, img_size: int | None) -> nn.Module:
    return _open_clip(name.partition("/")[0], None, img_size)


def _load_open_clip(name: str, checkpoint: Path | None, img_size: int | None) -> nn.Module:
    architecture, _, tag = name.partition("/")
    if checkpoint is None and not tag:
        raise ValueError(
            f"open_clip:{name} names no weights: add them, open_clip:{name}/TAG, or pass --checkpoint FILE."
        )
    if checkpoint is None:
        pretrained: Any = _import("open_clip").pretrained
        if tag not in pretrained.list_pretrained_tags_by_model(architecture):
            known = ", ".join(pretrained.list_pretrained_tags_by_model(architecture)) or "none"
            raise ValueError(f"open_clip has no weights {tag!r} for {architecture}; there are {known}.")
        check_answer()
    return _open_clip(architecture, str(checkpoint) if checkpoint else tag, img_size)


def _open_clip(architecture: str, pretrained: str | None, img_size: int | None) -> nn.Module:
    library: Any = _import("open_clip")
    if architecture not in library.list_models():
        raise ValueError(f"open_clip has no model {architecture!r}; open_clip.list_models() lists them.")
    size = {} if img_size is None else {"force_image_size": img_size}
    with _quiet():  # it warns of random weights, which were asked for
        model = library.create_model(architecture, pretrained=pretrained, **size).visual
    cfg = model.preprocess_cfg
    mode = {"shortest": "center", "squash": "squash", "longest": "border"}[cfg["resize_mode"]]
    _describe(model, cfg["size"][0], cfg["mean"], cfg["std"], cfg["interpolation"], 1.0, mode)
    model.num_classes = 0
    return model


def _describe(model: Any, pixels: int, mean: Any, std: Any, interpolation: str, crop_pct: float, mode: str) -> None:
    """Say how the images are prepared, in timm's terms."""
    model.pretrained_cfg = {
        "input_size": (3, pixels, pixels),
        "mean": tuple(mean),
        "std": tuple(std),
        "interpolation": interpolation,
        "crop_pct": crop_pct,
        "crop_mode": mode,
    }


@contextmanager
def _quiet() -> Iterator[None]:
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _import(library: str) -> Any:
    try:
        return importlib.import_module(library)
    except ImportError as error:
        raise ValueError(f'{library} is not installed: pip install "vitrim[{library}]".') from error


LIBRARIES = {
    "torchvision": Library(_build_torchvision, _load_torchvision),
    "transformers": Library(_build_transformers, _load_transformers),
    "open_clip": Library(_build_open_clip, _load_open_clip),
}
