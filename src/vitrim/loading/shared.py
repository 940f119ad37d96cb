"""What the three libraries share: quiet loggers, and how their image sizes are checked."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager


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
