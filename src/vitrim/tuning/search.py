"""The search for the method and schedule that change a model's answers least within a budget.

Every family races with plain shapes first: all on a few images, ever fewer on ever more of them. Then the best plan of
each of the best families is refined: bumps are tried, each scaled to the budget again. A candidate is dropped as soon
as the images seen so far speak against it. It is taken only if it is better on all of them by more than chance would
explain, and better on the last quarter of them by itself: the images are few, and what is best on them by a hair is
worse on others.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ..core.method import Method
from .cost import Cost
from .families import Family, Settings
from .resume import Resumable
from .shapes import Schedule, Shape, agree_until

SURE = 0.3  # standard errors by which a candidate must be better
HOPE = 0.5  # standard errors by which it may be worse on the first images
APART = 0.25  # of the images, the last ones, on which it must be better by itself
SURVIVE = 0.5  # of the plans, in each round of the race
RACE = 0.4  # of the time that is left, after which the race takes no more plans
SHARED = 1 / 3  # of the bumps that go to the shares that are dropped, if there are such
LEADERS = 3  # families that are refined
TRIAL = 0.4  # of the tries, shared by the leaders before the best one goes on alone


@dataclass(frozen=True)
class Candidate:
    """One plan, and how far the answers under it are from the unreduced model's, image by image.

    shares: of what each block removes, what is dropped, if the family has the choice. divergence_I: of the images that
    it was tried on.
    """

    family: Family
    shape: Shape
    shares: Shape
    schedule: Schedule
    cost: float
    divergence_I: Tensor = field(default_factory=lambda: torch.empty(0))

    @property
    def divergence(self) -> float:
        """Mean over the images."""
        return float(self.divergence_I.mean())

    @property
    def settings(self) -> Settings:
        """Of the method, for `create_method`."""
        return self.family.settings(self.schedule, self.shares)

    @property
    def method(self) -> Method:
        """The method to apply."""
        return self.family.make(self.schedule, self.shares)

    def content(self) -> dict[str, Any]:
        """Plain values, for tuned.json."""
        found = {"divergence": self.divergence, "images": len(self.divergence_I)}
        return {"name": self.family.name, "patches": list(self.schedule), "cost": self.cost} | found


@dataclass
class Search:
    """A search within one budget.

    cost: of a family with these shares dropped. tries: bumps to try; fewer if the deadline (`Memory.seconds`)
    comes first.
    """

    resumable: Resumable
    wanted: list[Tensor]  # the unreduced model's answers, batch by batch
    families: Sequence[Family]
    cost: Callable[[Family, Shape], Cost]
    budget: float
    seed: int = 0
    tries: int = 200
    deadline: float = math.inf
    progress: Callable[[int, int, float], None] | None = None  # bumps done, bumps in all, divergence of the best
    tried: list[Candidate] = field(default_factory=list)  # each with the images that it was tried on
    _seen: set[tuple[str, Schedule, Shape]] = field(default_factory=set)
    _done: int = 0

    @property
    def num_tried(self) -> int:
        """Candidates that were tried on some images at least."""
        return len(self.tried)

    def run(self) -> Candidate:
        """The best candidate; ValueError if the budget cannot be met."""
        leaders, rng = self._race(list(self._plans())), random.Random(self.seed)
        trial = int(TRIAL * self.tries / len(leaders)) if len(leaders) > 1 else 0
        found = [self._climb(leader, trial, rng) for leader in leaders]
        best = min(found, key=lambda each: each.divergence)
        return self._climb(best, self.tries - trial * len(leaders), rng)

    def run_one(self, like: Candidate) -> Candidate | None:
        """A candidate's shape within the budget as it is now; None if that is not possible, or was tried."""
        plan = self._fitted(like.family, like.shape, like.shares)
        if plan is None:
            return None
        self.tried.append(self._further(plan, range(len(self.wanted)), start=0))
        return self.tried[-1]

    def _plans(self) -> Iterator[Candidate]:
        """Every family with every plain shape; ValueError if none meets the budget."""
        shapes = [list(family.frame.plain()) for family in self.families]
        pairs = [pair for row in zip(*shapes, strict=True) for pair in zip(self.families, row, strict=True)]
        found = [plan for family, shape in pairs if (plan := self._fitted(family, shape, family.shares)) is not None]
        if found:
            yield from found
            return
        costs = ((self.cost(family, family.shares), family.frame.schedule(shape, 1.0)) for family, shape in pairs)
        lowest, cost = min(cost(schedule) for cost, schedule in costs), self.cost(self.families[0], ())
        raise ValueError(
            f"the budget of {self.budget:.4g} {cost.unit} cannot be met: {lowest:.4g} {cost.unit} is the least, "
            f"{cost.unreduced / lowest:.3g} times less than the unreduced model's {cost.unreduced:.4g}."
        )

    def _fitted(self, family: Family, shape: Shape, shares: Shape) -> Candidate | None:
        """The plan, scaled to the budget; None if it cannot meet it, or was tried."""
        cost = self.cost(family, shares)
        schedule = family.frame.fitted(shape, cost, self.budget, cost.rounded)
        if schedule is None or (family.name, schedule, shares) in self._seen:
            return None
        self._seen.add((family.name, schedule, shares))
        return Candidate(family, shape, shares, schedule, cost(schedule))

    def _race(self, plans: Sequence[Candidate]) -> list[Candidate]:
        """The best plan of each of the best families, on all images: all on few images, ever fewer on ever more."""
        self._keep(replace(plans[0], schedule=(plans[0].schedule[0],) * len(plans[0].schedule), shares=()))
        racing, seen, end = list(plans), 0, 1
        half = self.resumable.memory.seconds + RACE * (self.deadline - self.resumable.memory.seconds)
        while True:
            racing = [self._further(plan, range(seen, end)) for plan in racing[:1]] + [
                self._further(plan, range(seen, end)) for plan in racing[1:] if self.resumable.memory.seconds < half
            ]
            racing.sort(key=lambda each: each.divergence)
            if end == len(self.wanted):
                break
            left = math.ceil(SURVIVE * len(racing))
            self.tried += racing[left:]
            racing, seen, end = racing[:left], end, self._doubled(end)
        self.tried += racing
        best = {each.family.name: each for each in reversed(racing)}
        return sorted(best.values(), key=lambda each: each.divergence)[:LEADERS]

    def _doubled(self, end: int) -> int:
        """So many batches that they have twice the images of the first `end` ones, or all batches."""
        images = [len(wanted) for wanted in self.wanted]
        return next((i for i in range(end, len(images)) if sum(images[:i]) >= 2 * sum(images[:end])), len(images))

    def _further(self, plan: Candidate, batches: range, start: int | None = None) -> Candidate:
        """The plan, tried on more images. start: the first block that must run; None for the first that reduces."""
        if start is None:
            start = agree_until((plan.schedule[0],) * len(plan.schedule), plan.schedule)
        method = self._built(plan)
        found = [self.resumable.divergence(method, batch, self.wanted[batch], start) for batch in batches]
        return replace(plan, divergence_I=torch.cat([plan.divergence_I, *found]))

    def _climb(self, best: Candidate, tries: int, rng: random.Random) -> Candidate:
        """The best candidate after so many bumps."""
        if tries:
            self._keep(best)
        for _ in range(tries):
            if self.resumable.memory.seconds > self.deadline:
                break
            found = self._better(self._bumped(best, rng), best)
            if found is not None:
                best = found
                self._keep(best)
            self._done += 1
            if self.progress is not None:
                self.progress(self._done, self.tries, best.divergence)
        return best

    def _bumped(self, best: Candidate, rng: random.Random) -> Candidate | None:
        frame, shape, shares = best.family.frame, best.shape, best.shares
        if shares and rng.random() < SHARED:
            return self._fitted(best.family, shape, frame.bumped_shares(shares, rng))
        return self._fitted(best.family, frame.bumped(shape, rng), shares)

    def _better(self, plan: Candidate | None, best: Candidate) -> Candidate | None:
        """The plan, tried on all images, if it is better than the best one beyond chance."""
        if plan is None:
            return None
        start = min(agree_until(best.schedule, plan.schedule), agree_until((0, *best.shares), (0, *plan.shares)))
        for batch in range(len(self.wanted)):
            plan = self._further(plan, range(batch, batch + 1), start)
            if not _promising(plan.divergence_I, best.divergence_I):
                break
        self.tried.append(plan)
        if len(plan.divergence_I) < len(best.divergence_I):
            return None
        gain_I = best.divergence_I - plan.divergence_I
        apart_I = gain_I[-max(round(APART * len(gain_I)), 1) :]
        return plan if float(gain_I.mean()) > SURE * _standard_error(gain_I) and float(apart_I.mean()) > 0 else None

    def _keep(self, plan: Candidate) -> None:
        self.resumable.keep(self._built(plan))

    def _built(self, plan: Candidate) -> Method:
        return plan.method.built_for(self.resumable.stack.spec)


def _promising(found_I: Tensor, best_I: Tensor) -> bool:
    """Whether the images seen so far leave hope that a candidate is better."""
    gain_I = best_I[: len(found_I)] - found_I
    return len(found_I) < 2 or float(gain_I.mean()) > -HOPE * _standard_error(gain_I)


def _standard_error(gain_I: Tensor) -> float:
    return float(gain_I.std()) / math.sqrt(len(gain_I)) if len(gain_I) > 1 else 0.0
