"""What libraries say on standard error before every result, and nobody can act on; and our own warnings as one line.

Left out is what is listed here, by logger and words; whatever else a library says gets through.
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
    # torch 2.15, when transformers 5 brings in torchao 0.18: about an enum of torchao's
    "torch.utils._pytree": re.compile(r"^<enum '\w+'> is an Enum subclass and is now natively supported"),
    # torch 2.15 with CUDA built in, where there is no GPU, when it compiles for the CPU
    "torch.utils.cpp_extension": re.compile(r"^No CUDA runtime is found, using CUDA_HOME="),
}
LONGEST = 1000  # characters of a warning


@contextmanager
def quietly() -> Iterator[None]:
    """Inside, the terminal hears of our own warnings in one line, and of the known ones not at all."""
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
        """Whether a record gets through."""
        return self.words.search(record.getMessage()) is None
