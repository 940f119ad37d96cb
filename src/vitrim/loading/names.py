"""Decide what a model's name refers to: a timm model, a model of another library, or a saved folder."""

from __future__ import annotations

import difflib
import os
from pathlib import Path

from ..facts import FACTS
from ..kinds import read_object
from .folder import CONFIG_FILE, has_entry, is_of_transformers
from .network import check_hub

LIBRARIES = tuple(library for library in FACTS if library != "timm")  # the prefixes before a colon
HUB, FOLDER = "hf-hub:", "local-dir:"  # prefixes of timm's names for models outside its registry


def split_name(name: str) -> tuple[str, str] | None:
    """Split 'torchvision:vit_b_16' into ('torchvision', 'vit_b_16'); None for timm's names and vitrim's folders.

    A folder that transformers wrote is recognised by its config.json and needs no prefix.
    """
    library, colon, rest = name.partition(":")
    if colon and library in LIBRARIES:
        return library, rest
    return ("transformers", name) if _is_of_transformers(name) else None


def is_saved(name: str) -> bool:
    """Whether the name is a folder written by vitrim. For a folder named like a timm model, write ./name."""
    import timm

    return Path(name).is_dir() and not timm.is_model(name) and split_name(name) is None


def check_name(name: str) -> None:
    """Raise ValueError, with close names, unless timm has this model; OSError if the hub does not answer."""
    import timm

    if name.startswith(HUB):
        check_hub(name.removeprefix(HUB))
    if name.startswith((HUB, FOLDER)) or timm.is_model(name):
        return
    known = timm.list_models()
    close = difflib.get_close_matches(name.partition(".")[0], known, n=3, cutoff=0.6)
    hint = f"close names are {', '.join(close)}" if close else "timm.list_models() lists all names"
    raise ValueError(f"no model is called {name!r}; {hint}.")


def _is_of_transformers(name: str) -> bool:
    """Whether the name is a folder of transformers and not also a timm model."""
    import timm

    content = _content(name)
    theirs = is_of_transformers(content) and not has_entry(content)
    return theirs and not timm.is_model(name)


def _content(name: str) -> object:
    """The content of a folder's config.json; None if there is none."""
    try:
        return read_object(Path(os.path.expanduser(name)) / CONFIG_FILE)
    except (OSError, ValueError):
        return None
