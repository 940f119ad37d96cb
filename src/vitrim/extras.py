"""Optional libraries, imported when a model needs them."""

from __future__ import annotations

import importlib
from typing import Any

from .facts import FACTS


def import_module(name: str) -> Any:
    """Import a module. If that fails, a ValueError says how to install its library."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        library = name.partition(".")[0]
        package = f'"vitrim[{library}]"' if library in FACTS and FACTS[library].is_extra else library
        raise ValueError(f"{library} is not installed: pip install {package}.") from error
