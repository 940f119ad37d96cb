"""Load torchvision's classifiers by name. vitrim can reduce the Vision Transformers among them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..facts import import_module
from ..heads import num_classes
from ..measure.preparation import Preparation, given_to, prepared_by
from ..text import first_line
from .folder import Config
from .ranges import check_multiple
from .weights import fit, read_checkpoint

EXAMPLE, ADVICE = "vit_b_16", "pass --checkpoint FILE"
# Arguments of the constructor that the model keeps as attributes of the same name.
ARGUMENTS = ("image_size", "patch_size", "hidden_dim", "mlp_dim", "dropout", "attention_dropout", "representation_size")


def build(name: str, img_size: int | None, **settings: Any) -> nn.Module:
    """Build the model with random weights. The default image size is that of torchvision's weights.

    settings: num_classes, if it differs from torchvision's.
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
    """The transform of torchvision's weights; at another resolution, crop and resize change in proportion."""
    settings = dict(vars(recipe))
    if pixels != recipe.crop_size[0]:
        settings = {key: value for key, value in settings.items() if not key.startswith("_") and key != "training"}
        resize = round(pixels * recipe.resize_size[0] / recipe.crop_size[0])
        recipe = type(recipe)(**settings | {"crop_size": pixels, "resize_size": resize})
    names = ("crop_size", "resize_size", "interpolation", "antialias", "mean", "std")
    return prepared_by("torchvision", recipe, 3, {name: getattr(recipe, name) for name in names})


def _check_name(models: Any, name: str) -> None:
    """Raise ValueError unless it is a classifier. Detectors take other inputs, and some download weights when built."""
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
    except (TypeError, ValueError, RuntimeError) as error:  # this architecture takes no image size
        raise ValueError(
            f"torchvision:{name} cannot be built for images of {img_size} pixels: {first_line(error)}."
        ) from error


def candidates(model: Any) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Yield the model's class, the arguments of its constructor, and its image preparation."""
    arguments: dict[str, Any] = {name: getattr(model, name) for name in ARGUMENTS}
    arguments |= {"num_layers": len(model.encoder.layers), "num_heads": model.encoder.layers[0].num_heads}
    arguments["num_classes"] = num_classes(model)
    prepared = given_to(model)
    data = dict(prepared.settings) if prepared is not None and prepared.library == "torchvision" else {}
    if data:
        data["interpolation"] = data["interpolation"].value
    yield "VisionTransformer", arguments, data


def rebuild(config: Config, _: Path, img_size: int | None) -> nn.Module:
    """Build the model that a folder describes, with random weights."""
    library: Any = import_module("torchvision")
    size = {} if img_size is None else {"image_size": img_size}
    model = library.models.VisionTransformer(**{**config.arguments, **size})
    if config.data:
        settings = dict(config.data)
        settings["interpolation"] = library.transforms.InterpolationMode(settings["interpolation"])
        recipe = import_module("torchvision.transforms._presets").ImageClassification(
            crop_size=settings.pop("crop_size")[0], resize_size=settings.pop("resize_size")[0], **settings
        )
        model.image_preparation = _preparation(recipe, model.image_size)
    return model


def load(name: str, checkpoint: Path | None, img_size: int | None) -> nn.Module:
    """Load the model with torchvision's weights, or with the checkpoint's weights and number of classes."""
    models: Any = import_module("torchvision").models
    _check_name(models, name)
    if checkpoint is not None:
        state: Any = read_checkpoint(checkpoint)
        model: Any = build(name, img_size, **_classes_in(state, models, name))
    else:
        model, weights = build(name, img_size), models.get_model_weights(name).DEFAULT
        state, model.categories = weights.get_state_dict(progress=False), weights.meta["categories"]
    adapt = None if img_size is None else resample_positions
    fit(model, state, f"torchvision:{name}", checkpoint or Path(name), adapt=adapt)
    return model


def resample_positions(model: Any, state: dict[str, Tensor]) -> Mapping[str, Tensor]:
    """Resample the position embedding to the model's resolution."""
    if "encoder.pos_embedding" not in state:
        return state
    resample = import_module("torchvision.models.vision_transformer").interpolate_embeddings
    found: Mapping[str, Tensor] = resample(model.image_size, model.patch_size, state)
    return found


def _classes_in(state: Mapping[str, Tensor], models: Any, name: str) -> dict[str, int]:
    """The number of classes of the last linear layer, which gives the logits; nothing if the state lacks it."""
    with torch.device("meta"):
        parts = models.get_model(name, weights=None).named_modules()
    weight = state.get(f"{[part for part, module in parts if isinstance(module, nn.Linear)][-1]}.weight")
    return {} if weight is None or weight.ndim != 2 else {"num_classes": len(weight)}


RESAMPLE = resample_positions
