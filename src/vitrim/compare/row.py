"""A row of a comparison: one configuration with everything that was measured of it, or why it could not be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..measure.paired import PairedLoss, wilson
from ..measure.turns import Spread
from ..quantize import INT8
from ..rivals import UNREDUCED as UNREDUCED  # the method of the first row

Key = tuple[str, str]  # identifies a row within its run: the method, and its setting in words


@dataclass(frozen=True)
class Row:
    """One measured configuration: a line of results.csv."""

    method: str
    setting: str  # in words: "keep 0.7"; empty for the unreduced model
    settings: Mapping[str, Any]  # all settings of the method, resolved for the model
    top1: float  # percent
    top5: float  # percent
    drop: float  # points of top1 lost, relative to the unreduced model
    gmacs: float  # per image; for an input-adaptive method, the mean over some of the images
    mac_ratio: float  # multiply-adds of the unreduced model divided by these
    images_per_s: float
    speedup: Spread  # over the unreduced model, measured in turns with it
    latency_1_ms: float  # at batch size 1
    speedup_1: Spread
    peak_memory_mb: float | None
    tokens: Sequence[int]  # after each block, prefix included; for an input-adaptive method, means
    num_images: int
    skipped: int  # files that could not be read
    batch: int
    rounds: int
    dtype: str
    device: str
    versions: str
    seed: int
    precision: str = ""  # int8 or the dtype; missing in old files
    diversity: float | None = None  # relative, of the tokens after the last reducing block (BAT, eq. 4)
    preparation: str = ""  # preprocessing of the images; missing in old files
    labels: str = ""  # source of the labels: a table, folder numbers or names, or an assumed order
    lost: int | None = None  # images that only the unreduced model gets right; missing in old files
    won: int | None = None  # images that only this row gets right
    rival: str = ""  # kind of a rival (rivals.py): resolution, depth, model, int8 or unread; empty for a method
    timings: int = 1  # times that the speed was measured: again where the rounds differed too much

    def __post_init__(self) -> None:
        object.__setattr__(self, "precision", self.precision or self.dtype)

    @property
    def int8(self) -> bool:
        """Whether linear layers were quantized to int8."""
        return self.precision == INT8

    @property
    def key(self) -> Key:
        """The key of this row: ("evit", "keep 0.7"), or ("evit", "keep 0.7, int8")."""
        plain = (self.method, self.setting)
        return int8_key(plain) if self.int8 else plain

    @property
    def name(self) -> str:
        """The key as text, also the column in predictions.csv."""
        return name_of(self.key)

    @property
    def paired(self) -> PairedLoss | None:
        """The images behind `drop`. None for old rows."""
        if self.lost is None or self.won is None:
            return None
        return PairedLoss.of_counts(self.num_right, self.lost, self.won, self.num_images)

    @property
    def num_right(self) -> int:
        """Images that the row gets right."""
        return round(self.top1 * self.num_images / 100)

    @property
    def noisy(self) -> bool:
        """Whether the machine was too busy for the speed shown."""
        return self.speedup.noisy or self.speedup_1.noisy


@dataclass(frozen=True)
class Refusal:
    """A configuration that could not be measured, and the reason."""

    method: str
    setting: str
    reason: str

    @property
    def key(self) -> Key:
        """The key of the missing row."""
        return self.method, self.setting

    @property
    def not_measured(self) -> str:
        """Text to show instead of numbers."""
        return f"not measured: {self.reason}"


def sampling_error(row: Row) -> float:
    """Half the 95 % interval of top-1 from sampling the images, in points."""
    low, high = wilson(row.num_right, row.num_images)
    return 50 * (high - low)


def name_of(key: Key) -> str:
    """A key as text: 'evit keep 0.7'."""
    return " ".join(key).strip()


def int8_key(key: Key) -> Key:
    """The key of the same row in int8."""
    return key[0], f"{key[1]}, {INT8}" if key[1] else INT8
