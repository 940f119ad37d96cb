"""What the three libraries share: how they are imported, and how their image sizes are checked."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
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


def check_multiple(name: str, img_size: int, patch: int) -> None:
    """ValueError unless the patches cover the image."""
    if img_size % patch:
        below, above = img_size // patch * patch, (img_size // patch + 1) * patch
        close = f"{below} or {above}" if below else str(above)
        raise ValueError(f"{name} has patches of {patch} pixels, so --img-size is a multiple of it: {close}.")


@contextmanager
def quiet() -> Iterator[None]:
    """No warnings of loggers, for as long as the with block runs."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
