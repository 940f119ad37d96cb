"""Finding out how to build a model again: timm's name for it, and the arguments that were not the default.

timm notes the arguments that a model was built with (`_model_args`, in newer versions); what changed since, or was
never noted, is read off the model. Whether that was enough is checked on a model built from it, module by module.
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
from ..measure.evaluate import input_size_of
from .transformers import with_classes

# Argument of timm's builder -> where a model shows it.
SHOWN: Mapping[str, Callable[[Any], Any]] = {
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
# What may differ without a difference in evaluation.
MAY_DIFFER = (
    *("training", "grad_checkpointing", "gradient_checkpointing", "fused_attn", "weight_init_mode", "fix_init"),
    *("distilled_training", "return_dense", "mix_token"),  # what comes out in training mode
    *("num_classes", "num_labels"),  # stay behind where the head is exchanged, whose own shape is compared
)
PLAIN = (bool, int, float, str, tuple)


def describe(model: nn.Module, library: str) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Architecture, arguments and data entries for a `Config`. ValueError where the model cannot be built again."""
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
        f"this {type(model).__name__} is of no configuration that {library} lists, so it could not be built again: "
        "register its configuration with the library, or save its state_dict."
    )


def _blank(model: Any, library: str, architecture: str, arguments: Mapping[str, Any]) -> nn.Module:
    """What the description gives, without weights."""
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
            f"this {type(model).__name__} does not say which model of timm's it is, so nobody could build it again: "
            "build it with timm.create_model or vitrim.build_model."
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
        shown = {key: _shown(model, key) for key in SHOWN}
        missed = {key: value for key, value in shown.items() if value is not None and value != _shown(built, key)}
        if missed:
            arguments |= missed
            built = _build(architecture, arguments, data)
        _check_same(model, built, architecture, "timm")
    return architecture, arguments, data


def _build(architecture: str, arguments: Mapping[str, Any], data: Mapping[str, Any]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):  # saving must not change what a training run draws next
        return build_saved(Config(architecture, arguments, data, None), Path())


def _shown(model: nn.Module, key: str) -> Any:
    try:
        return SHOWN[key](model)
    except (AttributeError, TypeError, IndexError):
        return None


def _check_same(model: nn.Module, built: nn.Module, architecture: str, library: str) -> None:
    """ValueError naming the first difference between a model and one that was built from its description."""
    ours, theirs = (dict(each.named_modules()) for each in (model, built))
    difference = next((found for name in {**ours, **theirs} if (found := _difference(name, ours, theirs))), None)
    wanted, got = ({key: tuple(value.shape) for key, value in each.state_dict().items()} for each in (model, built))
    if difference is None and wanted != got:
        key = next(key for key in {**wanted, **got} if wanted.get(key) != got.get(key))
        difference = f"{key} is {wanted.get(key, 'missing')} here and {got.get(key, 'missing')} there"
    if difference:
        raise ValueError(
            f"this {architecture} is not as {library} builds it from its name and plain arguments, so it could not be "
            f"built again: {difference}. Register your variant with {library}, or save its state_dict."
        )


def _difference(name: str, ours: Mapping[str, nn.Module], theirs: Mapping[str, nn.Module]) -> str | None:
    here, there = ours.get(name), theirs.get(name)
    if all(each is None or _only_drops(each) for each in (here, there)):
        return None  # a path or feature dropped in training; nothing in evaluation
    if here is None or there is None or type(here) is not type(there):
        kinds = ["missing" if each is None else f"a {type(each).__name__}" for each in (here, there)]
        return f"{name or 'the model'} is {kinds[0]} here and {kinds[1]} there"
    for key, value in vars(there).items():
        if key.startswith("_") or key in MAY_DIFFER or not isinstance(value, PLAIN) or _only_drops(there):
            continue
        if vars(here).get(key) != value:
            return f"{f'{name}.' if name else ''}{key} is {vars(here).get(key)} here and {value} there"
    return None


def _only_drops(module: nn.Module) -> bool:
    return isinstance(module, nn.Identity) or "Drop" in type(module).__name__


def _is_plain(value: object) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return True
