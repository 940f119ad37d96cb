"""Quieter standard error: hide messages that no user can act on, and print our own warnings in one line.

Only the messages listed here are hidden, by logger and pattern.
"""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ..core.notice import VitrimWarning
from ..text import shown

KNOWN: Mapping[str, re.Pattern[str]] = {
    # torch 2.15, if transformers 5 imports torchao 0.18: about an enum of torchao
    "torch.utils._pytree": re.compile(r"^<enum '\w+'> is an Enum subclass and is now natively supported"),
    # torch 2.15 built with CUDA, on a machine without a GPU, when it compiles for the CPU
    "torch.utils.cpp_extension": re.compile(r"^No CUDA runtime is found, using CUDA_HOME="),
}
LONGEST = 1000  # characters of a warning


@contextmanager
def quietly() -> Iterator[None]:
    """Print our own warnings in one line, and hide the known messages."""
    filters = {name: _Without(words) for name, words in KNOWN.items()}
    plain = warnings.formatwarning

    def line(message: Any, category: type[Warning], *where: Any, **more: Any) -> str:
        if issubclass(category, VitrimWarning):
            return f"vitrim: warning: {shown(message, LONGEST)}\n"
        return plain(message, category, *where, **more)

    for name, words in filters.items():
        logging.getLogger(name).addFilter(words)
    warnings.formatwarning = line
    try:
        yield
    finally:
        warnings.formatwarning = plain
        for name, words in filters.items():
            logging.getLogger(name).removeFilter(words)


@dataclass(frozen=True)
class _Without:
    words: re.Pattern[str]

    def __call__(self, record: logging.LogRecord) -> bool:
        """Whether a record is shown."""
        return self.words.search(record.getMessage()) is None
