"""What a search has computed so far, in its output folder, so that it goes on after a kill.

Every result that takes long is computed through `Memory`, under a name. A search begun again with the same seed asks
for the same names in the same order, and finds what was computed before.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar, cast

from torch import Tensor

from ..store import replace_file, replacing

T = TypeVar("T")
RUN, VALUES = "run.json", "values.jsonl"


class Memory:
    """Results by name: plain values in one file, a line each, and tensors in files of their own.

    folder: where they are; None to keep nothing. A line that a kill cut short is left out.
    """

    def __init__(self, folder: Path | None = None):
        self.folder, self._began = folder, time.monotonic()
        self._values: dict[str, Any] = {}
        self._known: dict[str, float] = {}  # when each value was computed that an earlier start has left
        self._before = 0.0  # seconds of the earlier starts
        self._replayed: float | None = None  # when the value was computed that was asked for last
        if folder is not None:
            self._load(folder / VALUES)

    @property
    def seconds(self) -> float:
        """How long the search has worked, over all its starts.

        While it asks for what an earlier start has computed, it is as late as it was then, so that it decides the same.
        """
        return self._before + time.monotonic() - self._began if self._replayed is None else self._replayed

    def value(self, name: str, compute: Callable[[], T]) -> T:
        """The plain value of this name, computed unless it is known. It comes back as JSON has it."""
        if name in self._known:
            self._replayed = self._known[name]
        elif name not in self._values:
            if self._replayed is not None:  # here the earlier start stopped
                self._known, self._replayed, self._began = {}, None, time.monotonic()
            found = json.loads(json.dumps(compute()))
            self._values[name] = found
            self._write({"name": name, "seconds": round(self.seconds, 2), "value": found})
        return cast(T, self._values[name])

    def _write(self, entry: Mapping[str, Any]) -> None:
        if self.folder is not None:
            with open(self.folder / VALUES, "a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")

    def tensor(self, name: str, compute: Callable[[], Tensor]) -> Tensor:
        """The tensor of this name, computed unless it is known."""
        from safetensors.torch import load_file, save_file

        if self.folder is None:
            return compute()
        path = self.folder / f"{sha256(name.encode()).hexdigest()[:16]}.safetensors"
        if not path.exists():
            found = compute()
            with replacing(path) as new:
                save_file({"found": found.contiguous()}, new)
        return load_file(path)["found"]

    def _load(self, path: Path) -> None:
        if not path.exists():
            return
        whole = path.read_bytes()
        kept = whole[: whole.rfind(b"\n") + 1]
        for line in kept.splitlines():
            entry = json.loads(line)
            self._values[entry["name"]] = entry["value"]
            self._known[entry["name"]] = self._before = entry["seconds"]
        if kept != whole:
            replace_file(path, kept)


def begin(folder: Path, run: Mapping[str, Any]) -> Memory:
    """Start remembering a run in this folder, or go on with it."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / RUN).exists():
        replace_file(folder / RUN, json.dumps(run, indent=1, ensure_ascii=False) + "\n")
    return Memory(folder)
