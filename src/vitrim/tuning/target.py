"""What is asked for: a speed, a latency, a number of multiply-adds, or a loss that may not be exceeded."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, cast

from ..kinds import is_number

Name = Literal["speedup", "latency_ms", "gmacs", "max_loss"]
WANTED: dict[Name, str] = {
    "speedup": "a speed-up above 1",
    "latency_ms": "a latency above 0 ms",
    "gmacs": "a budget above 0 GMACs",
    "max_loss": "a loss above 0 points",
}


@dataclass(frozen=True)
class Target:
    """One goal and its value."""

    name: Name
    value: float

    def __str__(self) -> str:
        words = {"speedup": "{:g} times the speed", "latency_ms": "{:g} ms", "gmacs": "{:g} GMACs"}
        return words.get(self.name, "at most {:g} lost").format(self.value)

    def cost(self, by: str) -> str:
        """What cost means for this goal: "macs" or "time". by: what was asked for where both make sense."""
        return {"gmacs": "macs", "latency_ms": "time"}.get(self.name, by)

    def budget(self, unreduced: float) -> float:
        """What a schedule may cost, for a target of cost. unreduced: what the model costs as it is."""
        return unreduced / self.value if self.name == "speedup" else self.value


def target_of(**goals: float | None) -> Target:
    """The one goal that is given; ValueError for none, several, or a value that is none."""
    given = {name: value for name, value in goals.items() if value is not None}
    if len(given) != 1:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in WANTED)
        raise ValueError(f"give one goal, of {options}: {len(given)} are given.")
    name, value = cast("tuple[Name, float]", next(iter(given.items())))
    least = 1.0 if name == "speedup" else 0.0
    if not is_number(value) or not math.isfinite(value) or not value > least:
        raise ValueError(f"the goal is {WANTED[name]}, not {value!r}.")
    return Target(name, float(value))
