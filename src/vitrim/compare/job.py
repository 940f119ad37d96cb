"""The settings of a comparison, and its progress callbacks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..core.schedule import check_seed
from ..measure.benchmark import DTYPES, Dtype
from ..rivals import Rival
from .configuration import Configuration
from .row import Key, Refusal, Row
from .run_folder import Run


@dataclass(frozen=True)
class Job:
    """The settings of a comparison."""

    model: str
    data: Path
    output: Path
    configurations: Sequence[Configuration]
    checkpoint: Path | None = None
    img_size: int | None = None
    limit: int | None = None
    batch_size: int = 32
    rounds: int = 10
    device: str = "cpu"
    dtype: Dtype = "fp32"
    amp: bool = False
    compile: bool = False
    rivals: Sequence[Rival] = ()  # what a user would do instead of reducing tokens
    int8: bool = False  # measure every configuration a second time in int8
    skip_bad: bool = False
    seed: int = 0
    replaces: bool = False  # remove another run found in the output folder
    command: str = ""  # the command line, for the report

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(f"the dtype must be one of {', '.join(DTYPES)}, not {self.dtype!r}.")
        check_seed(self.seed, "the comparison")
        for name, value in (("batch size", self.batch_size), ("number of rounds", self.rounds)):
            if value < 1:
                raise ValueError(f"the {name} must be at least 1, not {value}.")


class Watcher:
    """Callbacks for the progress of a job. These do nothing."""

    def begins(self, keys: Sequence[Key], run: Run) -> None:
        """All checks have passed. `keys` are the wanted rows; `run` holds those already finished."""

    def works(self, key: Key, step: str, done: int, total: int) -> None:
        """A row is being measured: `done` of `total` images or rounds."""

    def finishes(self, row: Row) -> None:
        """A row has been measured and saved."""

    def refuses(self, refusal: Refusal) -> None:
        """A row could not be measured."""
