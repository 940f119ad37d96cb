"""What a search works with: the model reduced, the unreduced model's answers, and what schedules cost."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..api import reduce_tokens
from ..backbones.reader import read_backbone
from ..core.method import Method
from ..core.spec import ViTSpec
from ..measure.budget.formula import reduced_macs
from ..measure.forwards import dtype_of
from ..measure.macs import count_macs
from ..measure.noise import random_images
from .answers import Answers
from .cost import Cost, Macs, Milliseconds, measure_milliseconds
from .families import Family, families
from .outcome import ACCURACY, ANSWERS, SIMILARITY
from .resume import Resumable
from .sample import Sample, answer, answers_for, for_search
from .search import Candidate, Search
from .shapes import Shape
from .target import Target
from .timing import time_in_turns

Progress = Callable[[str], None]  # what is being done, in a few words
CORRECTIONS = 3  # times that a budget is corrected by the speed that a schedule turned out to have
CLOSE, AMPLE = 0.99, 1.03  # of the speed that is asked for: below, too little; above, more than was asked for
SPEEDS = (1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.75, 2.0, 2.25, 2.5, 3.0)  # that are tried for a loss


class Limits(NamedTuple):
    """When a search ends."""

    tries: int
    deadline: float  # of time.monotonic
    seed: int


@dataclass(frozen=True)
class Bench:
    """Everything that a search needs."""

    unreduced: nn.Module
    resumable: Resumable
    sample: Sample
    spec: ViTSpec
    answers: Answers
    wanted_IK: Tensor  # the unreduced model's answers
    families: Sequence[Family]
    costs: Mapping[str, Cost]  # by family; the shares that are dropped count in multiply-adds alone
    batch_size: int
    device: torch.device

    @property
    def wanted_held_out(self) -> Tensor:
        """The unreduced model's answers to the images that are held out."""
        return self.wanted_IK[self.sample.held_out]

    @property
    def loss(self) -> str:
        """What can be lost: accuracy if there are labels, else answers; similarity for embeddings."""
        if not self.answers.classes:
            return SIMILARITY
        return ACCURACY if self.sample.labelled else ANSWERS

    @property
    def cost(self) -> Cost:
        """The unit and the unreduced model's cost; the same for all families."""
        return self.costs[self.families[0].name]

    def cost_of(self, family: Family, shares: Shape) -> Cost:
        """The cost of a family's schedules, with these shares of what is removed being dropped."""
        cost = self.costs[family.name]
        return replace(cost, make=partial(family.make, shares=shares)) if isinstance(cost, Macs) else cost

    def block_ms(self, best: Candidate) -> Mapping[str, Mapping[int, float]]:
        """The measured times of the candidate's family, if cost is time."""
        cost = self.costs[best.family.name]
        if not isinstance(cost, Milliseconds):
            return {}
        return {"attention": cost.attention, "mlp": cost.mlp, "reducing": cost.reducing}

    def gmacs(self, method: Method) -> float:
        """1e9 multiply-adds under a method."""
        model_macs = count_macs(self.unreduced, tuple(self.sample.x_ICHW.shape[1:]))  # type: ignore[arg-type]
        return reduced_macs(model_macs, self.spec, method) / 1e9

    def search(self, goal: Target, limits: Limits, say: Progress) -> tuple[Candidate, list[Candidate]]:
        """The best method and schedule for the goal, and all that were tried."""
        if goal.name == "max_loss":
            budget, tried = self._budget_for_loss(goal.value, limits, say)
        else:
            budget, tried = goal.budget(self.cost.unreduced), []
        search = self._within(budget, limits, say, self.families)
        say(f"methods: {len(self.families)} kinds with plain schedules")
        best = search.run()
        if isinstance(self.cost, Milliseconds) and goal.name in ("speedup", "latency_ms"):
            best = self._corrected(goal, search, best, say)
        return best, tried + search.tried

    def _within(self, budget: float, limits: Limits, say: Progress, families: Sequence[Family]) -> Search:
        def progress(done: int, total: int, best: float) -> None:
            say(f"schedules: {done} of {total} changes tried, divergence {best:.4f}")

        wanted = for_search(self.wanted_IK[self.sample.searched])
        return Search(
            self.resumable,
            wanted,
            families,
            self.cost_of,
            budget,
            limits.seed,
            limits.tries,
            limits.deadline,
            progress,
        )

    def _corrected(self, goal: Target, search: Search, best: Candidate, say: Progress) -> Candidate:
        """The same shape, with fewer or more patches if it is slower or faster in turns than the table says."""
        for _ in range(CORRECTIONS):
            say("speed in turns")
            tuned = reduce_tokens(copy.deepcopy(self.unreduced), best.method)
            turns = time_in_turns([self.unreduced, tuned], self.batch_size, self.device)
            reached = turns.ratio("1", "0") / goal.value
            if goal.name == "latency_ms":
                reached = goal.value / (1e3 * turns.median("1"))
            if CLOSE <= reached <= AMPLE:
                break
            search.budget *= reached
            found = search.run_one(best)
            if found is None:
                break
            best = found
        return best

    def _budget_for_loss(self, points: float, limits: Limits, say: Progress) -> tuple[float, list[Candidate]]:
        """The smallest budget whose plain schedules of the first family lose no more on the images of the search."""
        budget, tried = self.cost.unreduced, list[Candidate]()
        for speed in SPEEDS:
            say(f"loss at {speed:g} times the speed")
            search = self._within(self.cost.unreduced / speed, limits._replace(tries=0), say, self.families[:1])
            try:
                best = search.run()
            except ValueError as error:  # no schedule is so fast
                if speed == SPEEDS[0]:
                    raise ValueError(
                        f"no schedule is {speed:g} times as fast as the unreduced model: {error}"
                    ) from error
                break
            tried += search.tried
            if self._lost(best) > points:
                break
            budget = search.budget
        if budget == self.cost.unreduced:
            raise ValueError(
                f"no schedule that is at least {SPEEDS[0]:g} times as fast loses at most {points:g} on the "
                f"{len(self.sample.searched)} images that were searched with."
            )
        return budget, tried

    def _lost(self, best: Candidate) -> float:
        """What is lost on the images that are searched with, in points or per cent."""
        if self.loss == SIMILARITY:
            return 100 * best.divergence
        tuned = reduce_tokens(copy.deepcopy(self.unreduced), best.method)
        found = answer(tuned, self.sample.x_ICHW[self.sample.searched], self.answers, self.device).argmax(dim=1)
        wanted = self.wanted_IK[self.sample.searched].argmax(dim=1)
        if self.loss == ANSWERS:
            return 100 * float((found != wanted).float().mean())
        labels = self.sample.labels_I[self.sample.searched]
        return 100 * float((wanted == labels).float().mean() - (found == labels).float().mean())


def prepare(model: nn.Module, sample: Sample, device: torch.device, by: str, batch_size: int, say: Progress) -> Bench:
    """Compute the unreduced model's answers and measure what schedules cost."""
    spec = read_backbone(model).spec
    answers = answers_for(model, spec.num_prefix)
    say("answers of the unreduced model")
    wanted_IK = answer(model, sample.x_ICHW, answers, device)
    kinds = families(spec)
    reduced = reduce_tokens(copy.deepcopy(model), kinds[0].method)
    batches = [part.to(device, dtype_of(model, part)) for part in for_search(sample.x_ICHW[sample.searched])]
    makes, costs = {family.name: family.make for family in kinds}, dict[str, Cost]()
    if by == "time":
        say("time per block and number of patches")
        x_BCHW = random_images(batch_size, tuple(sample.x_ICHW.shape[1:]))
        costs.update(measure_milliseconds(reduced, x_BCHW.to(device, dtype_of(model, x_BCHW)), makes))
    else:
        model_macs = count_macs(model, tuple(sample.x_ICHW.shape[1:]))  # type: ignore[arg-type]
        costs.update({name: Macs(spec, model_macs, make) for name, make in makes.items()})
    resumable = Resumable(reduced, batches, answers)
    return Bench(model, resumable, sample, spec, answers, wanted_IK, kinds, costs, batch_size, device)
