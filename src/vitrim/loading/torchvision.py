"""torchvision's classifiers by name; vitrim reads the Vision Transformers among them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..extras import import_module
from ..heads import num_classes
from ..measure.preparation import Preparation, prepared_by
from ..text import first_line
from .shared import check_multiple
from .weights import fill, read_checkpoint


def build(name: str, img_size: int | None, **settings: Any) -> nn.Module:
    """The model with random weights, for images of the size that its weights by torchvision are for.

    settings: num_classes, where it is not torchvision's.
    """
    models: Any = import_module("torchvision").models
    _check_name(models, name)
    recipe = models.get_model_weights(name).DEFAULT.transforms()
    own = recipe.crop_size[0]
    model = _create(models, name, img_size, own, settings)
    model.image_preparation = _preparation(recipe, getattr(model, "image_size", own))
    model.num_classes = num_classes(model) or 0
    return model


def _preparation(recipe: Any, pixels: int) -> Preparation:
    """The transform of the weights; at another resolution the same, its resizing in proportion."""
    settings = dict(vars(recipe))
    if pixels != recipe.crop_size[0]:
        settings = {key: value for key, value in settings.items() if not key.startswith("_") and key != "training"}
        resize = round(pixels * recipe.resize_size[0] / recipe.crop_size[0])
        recipe = type(recipe)(**settings | {"crop_size": pixels, "resize_size": resize})
    names = ("crop_size", "resize_size", "interpolation", "antialias", "mean", "std")
    return prepared_by("torchvision", recipe, 3, {name: getattr(recipe, name) for name in names})


def _check_name(models: Any, name: str) -> None:
    """ValueError but for classifiers: others want more than an image, and some download weights as they are built."""
    if name in models.list_models(module=models):
        return
    vits = ", ".join(each for each in models.list_models(module=models) if each.startswith("vit_"))
    if name in models.list_models():
        raise ValueError(f"torchvision:{name} does not classify images; torchvision's Vision Transformers are {vits}.")
    raise ValueError(f"torchvision has no model {name!r}; its Vision Transformers are {vits}.")


def _create(models: Any, name: str, img_size: int | None, own: int, settings: dict[str, Any]) -> Any:
    if name.startswith("vit_"):
        with torch.device("meta"):
            patch = models.get_model(name, weights=None).patch_size
        check_multiple(f"torchvision:{name}", img_size or own, patch)
        return models.get_model(name, weights=None, image_size=img_size or own, **settings)
    size = {} if img_size is None else {"image_size": img_size}
    try:
        return models.get_model(name, weights=None, **size, **settings)
    except (TypeError, ValueError, RuntimeError) as error:  # an architecture without sizes
        raise ValueError(
            f"torchvision:{name} cannot be built for images of {img_size} pixels: {first_line(error)}."
        ) from error


def load(name: str, checkpoint: Path | None, img_size: int | None) -> nn.Module:
    """The model with torchvision's weights, or the checkpoint's, and then with as many classes as these have."""
    model: Any = build(name, img_size)
    if checkpoint is not None:
        state: Any = read_checkpoint(checkpoint)
        weight = state.get(f"{_head_name(model)}.weight")
        if weight is not None and weight.ndim == 2 and len(weight) != model.num_classes:
            model = build(name, img_size, num_classes=len(weight))
    else:
        weights = import_module("torchvision").models.get_model_weights(name).DEFAULT
        state = weights.get_state_dict(progress=False)
        model.categories = weights.meta["categories"]
    if img_size is not None and "encoder.pos_embedding" in state:
        resample = import_module("torchvision.models.vision_transformer").interpolate_embeddings
        state = resample(img_size, model.patch_size, dict(state))
    fill(model, state, f"torchvision:{name}", checkpoint or Path(name))
    return model


def _head_name(model: nn.Module) -> str:
    """The name of the last linear layer, which gives the logits."""
    return [name for name, module in model.named_modules() if isinstance(module, nn.Linear)][-1]
