"""The folder of a run: its recipe, log, warnings, checkpoints, summary, curves and model.

recipe.json  metrics.jsonl  warnings.txt  checkpoints/  tensorboard/  summary.json  curves.svg  model/
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ..kinds import read_object
from ..store import replace_file, sync
from .checkpoint import TrainingError, last_checkpoint
from .recipe import Recipe, changed_fields
from .stored import read_entries


class RunFolder:
    """The folder of one run. Only the first process writes."""

    def __init__(self, folder: Path, *, writes: bool = True, tensorboard: bool = False):
        self.folder, self.writes = folder, writes
        self.checkpoints, self.metrics = folder / "checkpoints", folder / "metrics.jsonl"
        self.model, self.recipe = folder / "model", folder / "recipe.json"
        self._board: Any = None
        self._wants_board = tensorboard and writes
        self._first_step = 0  # the first update that this process logs
        self._warned: set[str] | None = None

    def check(self, recipe: Recipe, facts: Mapping[str, Any] | None = None) -> None:
        """Raise ValueError if it is not a folder, or holds another run or other files. Nothing is changed.

        facts: more values that must not change, such as the number of images.
        """
        if self.folder.exists() and not self.folder.is_dir():
            raise ValueError(f"the output {self.folder} is a file: name a folder.")
        if not self.recipe.exists():
            if self.folder.exists() and any(not path.name.startswith(".") for path in self.folder.iterdir()):
                raise ValueError(f"the output folder {self.folder} is not empty and holds no run: name a new folder.")
            return
        try:
            old = read_object(self.recipe)
        except ValueError as error:
            raise ValueError(f"{self.recipe} was not written by vitrim: name another output folder.") from error
        wanted = _as_json(recipe, facts or {})
        if facts is None:  # not known yet: compare the recipe alone
            wanted.pop("num_classes")
            old = {name: value for name, value in old.items() if name in wanted}
        changed = changed_fields(old, wanted)
        if changed:
            raise ValueError(
                f"{self.folder} holds a run of another recipe ({'; '.join(changed[:3])}"
                f"{f'; and {len(changed) - 3} more' if len(changed) > 3 else ''}): name another folder, or use "
                "the same recipe to resume."
            )

    def claim(self, recipe: Recipe, facts: Mapping[str, Any]) -> None:
        """Write the recipe into the folder; ValueError as from `check`."""
        self.check(recipe, facts)
        if self.writes and not self.recipe.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            replace_file(self.recipe, json.dumps(_as_json(recipe, facts), indent=1))

    def log(self, entry: Mapping[str, Any]) -> None:
        """Append one line to the log, and add it to tensorboard."""
        with self._writing(), self.metrics.open("a") as lines:
            lines.write(json.dumps(entry) + "\n")
        if self._wants_board:
            with self._writing():
                self._log_to_board(entry)

    def warn(self, text: str) -> None:
        """Append one warning, unless it was written before."""
        if not self.writes:
            return
        file = self.folder / "warnings.txt"
        with self._writing():
            if self._warned is None:
                self._warned = set(file.read_text(errors="replace").splitlines()) if file.exists() else set()
            if text not in self._warned:
                self._warned.add(text)
                with file.open("a") as lines:
                    lines.write(text + "\n")

    def sync(self) -> None:
        """Wait until the log is on the disk."""
        with self._writing():
            if self.metrics.exists():
                sync(self.metrics)
            if self._board is not None:
                self._board.flush()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise TrainingError(
                f"the log of {self.folder} cannot be written ({error.strerror or error}). Correct this and start the "
                f"same command again. {last_checkpoint(self.checkpoints)}"
            ) from error

    def entries(self) -> list[dict[str, Any]]:
        """Return all lines logged so far, without an incomplete last one."""
        return read_entries(self.metrics) if self.metrics.exists() else []

    def forget_after(self, step: int) -> None:
        """Remove the lines of updates after this one, which will be repeated."""
        self._first_step = step + 1
        kept = [entry for entry in self.entries() if entry["step"] <= step]
        if self.metrics.exists():
            replace_file(self.metrics, "".join(json.dumps(entry) + "\n" for entry in kept))

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Write the summary."""
        replace_file(self.folder / "summary.json", json.dumps(summary, indent=1) + "\n")

    def close(self) -> None:
        """Close tensorboard's file."""
        if self._board is not None:
            with suppress(OSError):  # the disk may be full
                self._board.close()
            self._board = None

    def _log_to_board(self, entry: Mapping[str, Any]) -> None:
        if self._board is None:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(self.folder / "tensorboard", purge_step=self._first_step)
        scalars = {"loss": entry["loss"], "lr": entry["lr"], "images_per_s": entry["images_per_s"]}
        scalars |= {f"loss/{name}": value for name, value in entry["parts"].items()}
        scalars |= {f"accuracy/{name}": value for name, value in entry["accuracy"].items()}
        rates = entry["keep_rate"]
        if rates is not None:
            one = set(rates) if isinstance(rates, tuple) else {rates}
            scalars |= {"keep_rate": one.pop()} if len(one) == 1 else {f"keep_rate/{i}": x for i, x in enumerate(rates)}
        for name, value in scalars.items():
            self._board.add_scalar(name, value, entry["step"])


def _as_json(recipe: Recipe, facts: Mapping[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps({**recipe.as_json(), **facts}))
