"""What a run leaves behind: its recipe, a line per log, warnings, checkpoints, summary, curves, the model.

recipe.json  metrics.jsonl  warnings.txt  checkpoints/  tensorboard/  summary.json  curves.svg  model/
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .checkpoint import TrainingError, sync
from .recipe import Recipe, changed_fields


class RunFolder:
    """The folder of one run; only its first process writes."""

    def __init__(self, folder: Path, *, writes: bool = True, tensorboard: bool = False):
        self.folder, self.writes = folder, writes
        self.checkpoints, self.metrics = folder / "checkpoints", folder / "metrics.jsonl"
        self.model = folder / "model"
        self._board: Any = None
        self._wants_board = tensorboard and writes

    def claim(self, recipe: Recipe, facts: Mapping[str, Any]) -> None:
        """Make the folder this recipe's; TrainingError if another run, or something else, is in it.

        facts: what must not change either, such as the number and the classes of the images.
        """
        wanted = json.loads(json.dumps({**recipe.as_json(), **facts}))
        file = self.folder / "recipe.json"
        if file.exists():
            changed = changed_fields(json.loads(file.read_text()), wanted)
            if changed:
                raise TrainingError(
                    f"{self.folder} holds a run of another recipe ({'; '.join(changed[:3])}): choose another folder, "
                    "or the same recipe to go on."
                )
        elif self.folder.exists() and any(self.folder.iterdir()):
            raise TrainingError(f"{self.folder} is not empty and holds no run: choose another folder.")
        elif self.writes:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_whole(file, json.dumps(wanted, indent=1))

    def log(self, entry: Mapping[str, Any]) -> None:
        """Append one line, and tell tensorboard."""
        with self.metrics.open("a") as lines:
            lines.write(json.dumps(entry) + "\n")
        if self._wants_board:
            self._tell_board(entry)

    def warn(self, text: str) -> None:
        """Append one warning."""
        if self.writes:
            with (self.folder / "warnings.txt").open("a") as lines:
                lines.write(text + "\n")

    def entries(self) -> list[dict[str, Any]]:
        """All lines logged so far; one cut off by a kill is left out."""
        if not self.metrics.exists():
            return []
        found = []
        for line in self.metrics.read_text().splitlines():
            try:
                found.append(json.loads(line))
            except json.JSONDecodeError:
                continue
        return found

    def forget_after(self, step: int) -> None:
        """Drop lines of updates that will be made again."""
        kept = [entry for entry in self.entries() if entry["step"] <= step]
        write_whole(self.metrics, "".join(json.dumps(entry) + "\n" for entry in kept))

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Write the summary."""
        write_whole(self.folder / "summary.json", json.dumps(summary, indent=1) + "\n")
        if self._board is not None:
            self._board.close()

    def _tell_board(self, entry: Mapping[str, Any]) -> None:
        if self._board is None:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(self.folder / "tensorboard", purge_step=entry["step"])
        scalars = {"loss": entry["loss"], "lr": entry["lr"], "images_per_s": entry["images_per_s"]}
        scalars |= {f"loss/{name}": value for name, value in entry["parts"].items()}
        scalars |= {f"accuracy/{name}": value for name, value in entry["accuracy"].items()}
        if isinstance(entry["keep_rate"], float):
            scalars["keep_rate"] = entry["keep_rate"]
        for name, value in scalars.items():
            self._board.add_scalar(name, value, entry["step"])


def write_whole(path: Path, text: str) -> None:
    """Write a file so that it is whole or as it was."""
    partial = path.with_name(f".{path.name}.part")
    partial.write_text(text)
    sync(partial)
    os.replace(partial, path)
