"""Find out how to build a model again: its name in its library, and the arguments that are not the default.

Newer versions of timm keep the arguments that a model was built with (`_model_args`). Arguments that are missing there
or have changed since are read from the model's attributes. A model built from the result is then compared with the
original, module by module.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..backbones.reader import restored
from ..heads import num_classes
from ..loading.build import build_saved
from ..loading.folder import DATA_KEYS, REFUSED_ARGUMENTS, Config
from ..loading.libraries import LIBRARIES
from ..measure.model_input import input_size_of
from .transformers import with_classes

# Argument of timm's builder -> the model's attribute that shows its value.
ATTRIBUTES: Mapping[str, Callable[[Any], Any]] = {
    "patch_size": lambda model: model.patch_embed.patch_size[0],
    "embed_dim": lambda model: model.embed_dim,
    "depth": lambda model: len(model.blocks),
    "num_heads": lambda model: model.blocks[0].attn.num_heads,
    "global_pool": lambda model: model.global_pool,
    "class_token": lambda model: model.has_class_token,
    "reg_tokens": lambda model: model.num_reg_tokens,
    "no_embed_class": lambda model: model.no_embed_class,
    "dynamic_img_size": lambda model: model.dynamic_img_size,
}
# Attributes that may differ, since they have no effect in evaluation.
MAY_DIFFER = (
    *("training", "grad_checkpointing", "gradient_checkpointing", "fused_attn", "weight_init_mode", "fix_init"),
    *("distilled_training", "return_dense", "mix_token"),  # outputs in training mode
    *("num_classes", "num_labels"),  # may be outdated after the head was replaced; the head's shape is compared
)
PLAIN = (bool, int, float, str, tuple)


def describe(model: nn.Module, library: str) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Return architecture, arguments and data for a `Config`; ValueError if the model could not be built again."""
    if library == "timm":
        return _of_timm(model)
    refusal: ValueError | None = None
    with restored(model):
        for architecture, arguments, data in LIBRARIES[library].candidates(model):
            try:
                _check_same(model, _blank(model, library, architecture, arguments), architecture, library)
            except ValueError as error:
                refusal = refusal or error
            else:
                return architecture, arguments, data
    raise refusal or ValueError(
        f"this {type(model).__name__} matches no configuration that {library} lists, so it could not be built again: "
        "register its configuration with the library, or save its state_dict."
    )


def _blank(model: Any, library: str, architecture: str, arguments: Mapping[str, Any]) -> nn.Module:
    """Build the described model without weights."""
    with torch.device("meta"):
        if library == "transformers":
            return type(model)(with_classes(model))
        config = Config(architecture, arguments, {}, None, library=library)
        return build_saved(config, Path())


def _of_timm(model: nn.Module) -> tuple[str, dict[str, Any], dict[str, Any]]:
    cfg: Any = getattr(model, "pretrained_cfg", None) or {}
    architecture = cfg.get("architecture")
    if not architecture:
        raise ValueError(
            f"this {type(model).__name__} has no name in timm, so it could not be built again: build it with "
            "timm.create_model or vitrim.build_model."
        )
    noted = getattr(model, "_model_args", {})
    arguments = {key: value for key, value in noted.items() if key not in REFUSED_ARGUMENTS and _is_plain(value)}
    channels, height, width = input_size_of(model)
    data = {key: cfg[key] for key in DATA_KEYS if cfg.get(key) is not None} | {"input_size": (channels, height, width)}
    classes = num_classes(model)
    classes = getattr(model, "num_classes", 0) if classes is None else classes
    arguments |= {"num_classes": classes, "img_size": (height, width), "in_chans": channels}
    with restored(model):
        built = _build(architecture, arguments, data)
        found = {key: _attribute(model, key) for key in ATTRIBUTES}
        missed = {key: value for key, value in found.items() if value is not None and value != _attribute(built, key)}
        if missed:
            arguments |= missed
            built = _build(architecture, arguments, data)
        _check_same(model, built, architecture, "timm")
    return architecture, arguments, data


def _build(architecture: str, arguments: Mapping[str, Any], data: Mapping[str, Any]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):  # saving must not change the random numbers of a training run
        return build_saved(Config(architecture, arguments, data, None), Path())


def _attribute(model: nn.Module, key: str) -> Any:
    try:
        return ATTRIBUTES[key](model)
    except (AttributeError, TypeError, IndexError):
        return None


def _check_same(model: nn.Module, built: nn.Module, architecture: str, library: str) -> None:
    """Raise ValueError, naming the first difference, if the model built from the description is another one."""
    ours, theirs = (dict(each.named_modules()) for each in (model, built))
    difference = next((found for name in {**ours, **theirs} if (found := _difference(name, ours, theirs))), None)
    wanted, got = ({key: tuple(value.shape) for key, value in each.state_dict().items()} for each in (model, built))
    if difference is None and wanted != got:
        key = next(key for key in {**wanted, **got} if wanted.get(key) != got.get(key))
        difference = f"{key} is {wanted.get(key, 'missing')} and would be {got.get(key, 'missing')}"
    if difference:
        raise ValueError(
            f"this {architecture} differs from what {library} builds from its name and arguments, so it could not be "
            f"built again: {difference}. Register your variant with {library}, or save its state_dict."
        )


def _difference(name: str, ours: Mapping[str, nn.Module], theirs: Mapping[str, nn.Module]) -> str | None:
    here, there = ours.get(name), theirs.get(name)
    if all(each is None or _only_drops(each) for each in (here, there)):
        return None  # they do nothing in evaluation
    if here is None or there is None or type(here) is not type(there):
        kinds = ["missing" if each is None else f"a {type(each).__name__}" for each in (here, there)]
        return f"{name or 'the model'} is {kinds[0]} and would be {kinds[1]}"
    for key, value in vars(there).items():
        if key.startswith("_") or key in MAY_DIFFER or not isinstance(value, PLAIN) or _only_drops(there):
            continue
        if vars(here).get(key) != value:
            return f"{f'{name}.' if name else ''}{key} is {vars(here).get(key)} and would be {value}"
    return None


def _only_drops(module: nn.Module) -> bool:
    return isinstance(module, nn.Identity) or "Drop" in type(module).__name__


def _is_plain(value: object) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return True
