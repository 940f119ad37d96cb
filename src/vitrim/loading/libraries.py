"""Models of torchvision, transformers and open_clip by name, prepared so that every command takes them.

    torchvision:vit_b_16                                 its name, weights by torchvision or from --checkpoint
    transformers:facebook/dinov2-small-imagenet1k-1-layer   a repository of the hub, or a folder of save_pretrained;
                                                         of CLIP and SigLIP, the vision tower
    open_clip:ViT-B-32/laion2b_s34b_b79k                 the vision tower; weights after the slash, random without

A model brings its library's own transform as `image_preparation`, so that its pixels are those of the library's
pipeline. `num_classes` is set where the model has classes.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from ..text import first_line
from . import transformers
from .folder import Config
from .names import LIBRARIES as NAMES
from .weights import Adapt


class Library(NamedTuple):
    """How a library's models come by name: without weights, and with them (from a checkpoint if one is given)."""

    build: Callable[[str, int | None], nn.Module]
    load: Callable[[str, Path | None, int | None], nn.Module]
    example: str
    advice: str  # where there is no network
    candidates: Callable[[Any], Iterator[tuple[str, dict[str, Any], dict[str, Any]]]]  # how a folder may describe one
    rebuild: Callable[[Config, Path, int | None], nn.Module]  # the model that a folder describes
    resample: Adapt | None  # positions at the resolution of a model


def _library(name: str) -> Library:
    """The module beside this one that is called like the library."""
    module = importlib.import_module(f".{name}", __package__)
    said = module.EXAMPLE, module.ADVICE
    return Library(module.build, module.load, *said, module.candidates, module.rebuild, module.RESAMPLE)


LIBRARIES = {name: _library(name) for name in NAMES}


def build(library: str, name: str, img_size: int | None) -> nn.Module:
    """The model in eval mode with random weights; nothing but a configuration is downloaded."""
    _check(library, name, img_size)
    try:
        return LIBRARIES[library].build(name, img_size).eval()
    except OSError as error:
        if _is_here(library, name, error):
            raise
        advice = " name a folder to use files on this machine" if library == "transformers" else ""
        raise OSError(
            f"the configuration of {library}:{name} cannot be had, is there a network?{advice} ({first_line(error)})."
        ) from error


def load(library: str, name: str, checkpoint: Path | None, img_size: int | None) -> nn.Module:
    """The model in eval mode with its weights. ValueError for what does not fit, OSError for what cannot be had."""
    _check(library, name, img_size)
    try:
        return LIBRARIES[library].load(name, checkpoint, img_size).eval()
    except OSError as error:
        if checkpoint is not None or _is_here(library, name, error):
            raise
        raise OSError(
            f"the weights of {library}:{name} cannot be had, is there a network? {LIBRARIES[library].advice} to use "
            f"weights on this machine ({first_line(error)})."
        ) from error


def _check(library: str, name: str, img_size: int | None) -> None:
    if not name.strip():
        raise ValueError(f"{library}: names no model: write a name behind it, {library}:{LIBRARIES[library].example}.")
    if img_size is not None and img_size < 1:
        raise ValueError(f"--img-size is a number of pixels, at least 1, not {img_size}.")


def _is_here(library: str, name: str, error: OSError) -> bool:
    """Whether the error is of files on this machine, so that a network would not help."""
    return type(error) is FileNotFoundError or (library == "transformers" and transformers.is_folder(name))
