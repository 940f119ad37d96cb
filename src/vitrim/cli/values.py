"""Numbers as the command line takes them: each option says of which kind and in which range.

They are checked as they are read, before anything is loaded; what is refused is told in one line that names the option.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import typer

from ..text import shown

LIST = "NUMBERS"  # what the help calls them
LARGEST = 2**31 - 1  # of whole numbers that count something


class Several(tuple[Any, ...]):
    """The numbers of a list separated by commas."""


@dataclass(frozen=True)
class Numbers:
    """Reads a number, or a list of them, from an option's text."""

    kind: type[int] | type[float]
    least: float
    most: float
    above: bool = False  # whether least itself is out of range
    several: bool = False

    __name__ = "number"  # typer asks for it

    def __call__(self, given: object) -> Any:
        """The number or numbers; BadParameter says what was wanted and what came."""
        if not self.several:
            return self._read(str(given))
        parts = given if isinstance(given, tuple) else [part for part in str(given).split(",") if part.strip()]
        if not parts:
            raise typer.BadParameter(f"wanted {self.wanted}, and it is empty.")
        return Several(self._read(str(part).strip()) for part in parts)

    @property
    def wanted(self) -> str:
        """In words: 'a whole number of at least 1'."""
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


def whole(least: int = 0, most: int = LARGEST) -> Numbers:
    """A whole number in that range."""
    return Numbers(int, least, most)


def number(least: float = -math.inf, most: float = math.inf, *, above: bool = False) -> Numbers:
    """A finite number in that range; above: without least itself."""
    return Numbers(float, least, most, above)


def wholes(least: int = 0, most: int = LARGEST) -> Numbers:
    """Whole numbers separated by commas."""
    return Numbers(int, least, most, several=True)


def numbers(least: float = -math.inf, most: float = math.inf, *, above: bool = False) -> Numbers:
    """Finite numbers separated by commas."""
    return Numbers(float, least, most, above, several=True)


SHARES = numbers(0, 1, above=True)
