"""Numbers on the command line: each option states their kind and range.

They are checked when they are read, before anything is loaded. The error names the option.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import typer

from ..text import shown

LIST = "NUMBERS"  # their name in the help
LARGEST = 2**31 - 1  # of counts


class Several(tuple[Any, ...]):
    """The numbers of a list separated by commas."""


@dataclass(frozen=True)
class Numbers:
    """Read a number, or a list of numbers, from the text of an option."""

    kind: type[int] | type[float]
    least: float
    most: float
    above: bool = False  # whether least itself is out of range
    several: bool = False

    __name__ = "number"  # typer asks for it

    def __call__(self, given: object) -> Any:
        """Return the number or numbers. Raises BadParameter with the wanted range and the given text."""
        if not self.several:
            return self._read(str(given))
        parts = given if isinstance(given, tuple) else [part for part in str(given).split(",") if part.strip()]
        if not parts:
            raise typer.BadParameter(f"wanted {self.wanted}, and the text is empty.")
        return Several(self._read(str(part).strip()) for part in parts)

    @property
    def wanted(self) -> str:
        """The kind and range in words: 'a whole number of at least 1'."""
        what = "whole number" if self.kind is int else "number"
        low = (
            None
            if self.least in (-math.inf, -LARGEST)
            else f"{'above' if self.above else 'of at least'} {self.least:g}"
        )
        high = None if self.most == math.inf else f"at most {self.most:.10g}"
        limits = " and ".join(filter(None, (low, high)))
        words = f"{what}s" if self.several else f"a {what}"
        return " ".join(filter(None, (words, limits))) + (", separated by commas" if self.several else "")

    def _read(self, text: str) -> int | float:
        try:
            value = self.kind(text)
        except ValueError:
            value = math.nan
        in_range = self.least <= value <= self.most and value not in (math.inf, -math.inf)
        if not in_range or (self.above and value == self.least):
            raise typer.BadParameter(f"wanted {self.wanted}, not {shown(text, 40)!r}.")
        return value


def whole(least: int = 0, most: int = LARGEST, *, several: bool = False) -> Numbers:
    """Read a whole number in this range, or several separated by commas."""
    return Numbers(int, least, most, several=several)


def number(least: float = -math.inf, most: float = math.inf, *, above: bool = False, several: bool = False) -> Numbers:
    """Read a finite number in this range, or several separated by commas. above: exclude `least` itself."""
    return Numbers(float, least, most, above, several)


SHARES = number(0, 1, above=True, several=True)
