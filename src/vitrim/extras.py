"""Libraries that need not be installed, imported when a model of theirs comes."""

from __future__ import annotations

import importlib
from typing import Any

EXTRAS = ("transformers", "open_clip")  # those that come with vitrim[...]


def import_module(name: str) -> Any:
    """The module; ValueError that says how to install its library if it cannot be imported."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        library = name.partition(".")[0]
        package = f'"vitrim[{library}]"' if library in EXTRAS else library
        raise ValueError(f"{library} is not installed: pip install {package}.") from error
