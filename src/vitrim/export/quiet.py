"""Silence the exporters, whose messages are for their developers: users can do nothing about them."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout


@contextmanager
def quiet(*loggers: str) -> Iterator[None]:
    """Silence warnings, output and these loggers in the with block."""
    found = [logging.getLogger(name) for name in loggers]
    before = [logger.level for logger in found]
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        for logger in found:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(found, before, strict=True):
                logger.setLevel(level)
