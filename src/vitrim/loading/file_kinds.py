"""Check the kinds of numbers in files that another library loads. It would convert integers without a word."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from ..text import shown

FLOATS = ("F64", "F32", "F16", "BF16")  # as safetensors calls them; 8-bit floats mean nothing without their scales
WEIGHT = re.compile(r"(^|\.)(weight|bias)$")


def check_kinds(files: Iterable[Path]) -> None:
    """Raise ValueError for weights and biases that are not floating-point. Reads the headers alone."""
    from safetensors import SafetensorError, safe_open

    for file in files:
        try:
            with safe_open(file, "pt") as tensors:
                kinds = {key: tensors.get_slice(key).get_dtype() for key in tensors.keys() if WEIGHT.search(key)}  # noqa: SIM118
        except (OSError, SafetensorError):
            continue  # told by the library that loads it
        odd = [key for key, kind in kinds.items() if kind not in FLOATS]
        if odd:
            raise ValueError(
                f"{file}: {len(odd)} weights are not floating-point, such as {shown(odd[0])} ({kinds[odd[0]]})."
            )
