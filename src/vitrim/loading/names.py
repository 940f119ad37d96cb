"""What a model's name says: a library's model, a saved folder, or one of timm's."""

from __future__ import annotations

import difflib
import json
import os
from pathlib import Path

from ..facts import FACTS
from .folder import CONFIG_FILE, has_entry, is_of_transformers
from .network import check_hub

LIBRARIES = tuple(library for library in FACTS if library != "timm")  # named before a colon; any other name is timm's
HUB, FOLDER = "hf-hub:", "local-dir:"  # beginnings of names that timm looks up outside its own registry


def split_name(name: str) -> tuple[str, str] | None:
    """('torchvision', 'vit_b_16') for 'torchvision:vit_b_16'; None for a name of timm's, or a folder of ours.

    A folder that transformers' own save_pretrained wrote is known by its config.json and needs no prefix.
    """
    library, colon, rest = name.partition(":")
    if colon and library in LIBRARIES:
        return library, rest
    return ("transformers", name) if _is_of_transformers(name) else None


def is_saved(name: str) -> bool:
    """Whether the name is that of a folder of ours; for a folder called like one of timm's models, write ./name."""
    import timm

    return Path(name).is_dir() and not timm.is_model(name) and split_name(name) is None


def check_name(name: str) -> None:
    """ValueError, with close names, unless timm has a model of that name; OSError if its hub does not answer."""
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
    """Whether the name is that of a folder of transformers, and of no model of timm's."""
    import timm

    content = _content(name)
    theirs = is_of_transformers(content) and not has_entry(content)
    return theirs and not timm.is_model(name)


def _content(name: str) -> object:
    """What the config.json of a folder says; None where there is none."""
    try:
        return json.loads((Path(os.path.expanduser(name)) / CONFIG_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
