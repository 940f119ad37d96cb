"""The output folder of a search: a stopped search goes on there, and different ones never mix.

While a search works, its folder `search` holds what it has computed and which run it is. At the end the whole folder is
replaced by the result, whose tuned.json says which run it was.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from ..kinds import read_object
from ..store import locked
from ..temporary import LOCK
from ..text import shown
from ..tuned_folder import RESULT
from . import files
from .memory import RUN, Memory, begin
from .outcome import Tuned
from .stored import found_in

SEARCH = "search"


@dataclass
class Place:
    """An output folder that is locked: what was computed there before, and the result if it is finished."""

    folder: Path
    run: Mapping[str, Any]
    memory: Memory
    finished: Tuned | None = None
    has_result: bool = False

    def write(self, found: Tuned, model: nn.Module) -> None:
        """Replace the folder by the result. model: the unreduced one."""
        self.has_result = True
        files.write(found, model, self.folder, self.run)


@dataclass(frozen=True)
class Output:
    """A folder for a search. replaces: whether another run there is removed."""

    folder: Path
    replaces: bool = False

    def check(self) -> None:
        """ValueError for a folder that holds something else."""
        if self.folder.exists() and not self.folder.is_dir():
            raise ValueError(f"{self.folder} is a file: name a folder for the results.")
        paths = self.folder.iterdir() if self.folder.is_dir() else ()
        others = sorted(path.name for path in paths if not path.name.startswith("."))
        if others and not {RESULT, SEARCH} & set(others):
            raise ValueError(f"{self.folder} holds {others[0]} and no {RESULT}: name another folder for the results.")

    @contextmanager
    def opened(self, run: Mapping[str, Any]) -> Iterator[Place]:
        """The folder, locked, for this run; ValueError if it holds another one.

        After a ValueError of the search nothing of it is left, since no further start can mend it. After a kill, Ctrl-C
        or an error while the result is written it stays.
        """
        self.check()
        place = self.folder.expanduser().resolve()
        was_there = place.exists()
        with locked(place):
            finished = self._finished(place, run)
            search = place / SEARCH
            if finished is not None:
                yield Place(place, run, Memory(), finished)
                return
            opened = Place(place, run, begin(search, run))
            try:
                yield opened
            except ValueError:
                if opened.has_result:
                    raise
                shutil.rmtree(search, ignore_errors=True)
                if not was_there:
                    (place / LOCK).unlink(missing_ok=True)
                    with suppress(OSError):
                        place.rmdir()
                raise

    def _finished(self, place: Path, run: Mapping[str, Any]) -> Tuned | None:
        """The result of this run, if it is finished; ValueError for another run, which is removed if that was asked."""
        path = place / SEARCH / RUN if (place / SEARCH / RUN).exists() else place / RESULT
        if not path.exists():
            return None
        try:
            content = read_object(path)
            there = content if path.name == RUN else content.get("run", {})
            self._check_same(there, run)
            return None if path.name == RUN else found_in(place)
        except ValueError:
            if not self.replaces:
                raise
            shutil.rmtree(place / SEARCH, ignore_errors=True)
            return None

    def _check_same(self, there: Mapping[str, Any], here: Mapping[str, Any]) -> None:
        here = json.loads(json.dumps(here))
        for name in {**here, **there}:
            if there.get(name) != here.get(name):
                raise ValueError(
                    f"the output folder {self.folder} holds another run: its {name} is {shown(there.get(name))}, not "
                    f"{shown(here.get(name))}. Pass another folder, or --replace to remove that run."
                )
