"""The search for the schedule that changes a model's answers least within a budget.

Plain shapes are raced first. From the best one, bumps are tried, each scaled to the budget again. A candidate is
dropped as soon as the images seen so far speak against it, and taken only if it is better on all of them by more
than chance would explain: the images are few, and what is best on them by a hair is worse on others.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..core.method import Method
from .cost import Cost
from .resume import Resumable
from .shapes import Frame, Schedule, Shape, agree_until

SURE = 0.3  # standard errors by which a candidate must be better


@dataclass(frozen=True)
class Candidate:
    """One schedule and how far the answers under it are from the unreduced model's, image by image."""

    shape: Shape
    schedule: Schedule
    cost: float
    divergence_I: Tensor

    @property
    def divergence(self) -> float:
        """Mean over the images."""
        return float(self.divergence_I.mean())


@dataclass
class Search:
    """A search within one budget.

    make: the method of a schedule. tries: bumps to try; fewer if the deadline (seconds of time.monotonic) comes first.
    """

    resumable: Resumable
    wanted: list[Tensor]  # the unreduced model's answers, batch by batch
    frame: Frame
    make: Callable[[Schedule], Method]
    cost: Cost
    budget: float
    seed: int = 0
    tries: int = 200
    deadline: float = math.inf
    progress: Callable[[int, int, float], None] | None = None  # bumps done, bumps in all, divergence of the best
    tried: list[Candidate] = field(default_factory=list)  # on all images, in order
    num_tried: int = 0
    _seen: set[Schedule] = field(default_factory=set)

    def run(self, *shapes: Shape) -> Candidate:
        """The best candidate, from these shapes or the plain ones; ValueError if the budget cannot be met."""
        best: Candidate | None = None
        for shape in shapes or self.frame.plain():
            best = self._better(shape, best, sure=0.0) or best
        if best is None:
            lowest = min(self.cost(self.frame.schedule(shape, 1.0)) for shape in self.frame.plain())
            unit = self.cost.unit
            raise ValueError(
                f"the budget of {self.budget:.4g} {unit} cannot be met: {lowest:.4g} {unit} is the least, and "
                f"{self.cost.unreduced:.4g} {unit} the unreduced model."
            )
        rng = random.Random(self.seed)
        self._keep(best)
        for done in range(self.tries):
            if time.monotonic() > self.deadline:
                break
            found = self._better(self.frame.bumped(best.shape, rng), best, sure=SURE)
            if found is not None:
                best = found
                self._keep(best)
            if self.progress is not None:
                self.progress(done + 1, self.tries, best.divergence)
        return best

    def run_one(self, shape: Shape) -> Candidate | None:
        """The candidate of one shape; None if it cannot meet the budget, or was tried."""
        return self._better(shape, None, sure=0.0)

    def _better(self, shape: Shape, best: Candidate | None, sure: float) -> Candidate | None:
        """The candidate of a shape, if it is better than the best one by so many standard errors."""
        schedule = self.frame.fitted(shape, self.cost, self.budget)
        if schedule is None or schedule in self._seen:
            return None
        self._seen.add(schedule)
        self.num_tried += 1
        method, start = self._built(schedule), 0 if best is None else agree_until(best.schedule, schedule)
        parts: list[Tensor] = []
        for batch, wanted in enumerate(self.wanted):
            parts.append(self.resumable.answers.divergence(wanted, self.resumable.forward(method, batch, start)))
            if best is not None and not _promising(torch.cat(parts), best.divergence_I):
                return None
        found = Candidate(shape, schedule, self.cost(schedule), torch.cat(parts))
        self.tried.append(found)
        if best is None:
            return found
        gain_I = best.divergence_I - found.divergence_I
        return found if float(gain_I.mean()) > sure * _standard_error(gain_I) else None

    def _keep(self, best: Candidate) -> None:
        self.resumable.keep(self._built(best.schedule))

    def _built(self, schedule: Schedule) -> Method:
        return self.make(schedule).built_for(self.resumable.stack.spec)


def _promising(found_I: Tensor, best_I: Tensor) -> bool:
    """Whether the images seen so far leave hope that a candidate is better."""
    gain_I = best_I[: len(found_I)] - found_I
    return len(found_I) < 2 or float(gain_I.mean()) > -0.5 * _standard_error(gain_I)


def _standard_error(gain_I: Tensor) -> float:
    return float(gain_I.std()) / math.sqrt(len(gain_I)) if len(gain_I) > 1 else 0.0
