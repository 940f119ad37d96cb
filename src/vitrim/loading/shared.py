"""Helpers for loading models of several libraries."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager


def check_multiple(name: str, img_size: int, patch: int) -> None:
    """Raise ValueError unless the image size is a multiple of the patch size."""
    if img_size % patch:
        below, above = img_size // patch * patch, (img_size // patch + 1) * patch
        close = f"{below} or {above}" if below else str(above)
        raise ValueError(f"{name} has patches of {patch} pixels, so --img-size must be a multiple of {patch}: {close}.")


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the warnings of all loggers in the with block."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
