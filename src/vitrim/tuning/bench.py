"""What a search works with: the model reduced, the unreduced model's answers, and what schedules cost."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..api import reduce_tokens
from ..backbones.reader import read_backbone
from ..core.method import Method
from ..core.spec import ViTSpec
from ..measure.budget.formula import reduced_macs
from ..measure.forwards import dtype_of
from ..measure.macs import count_macs
from ..measure.model_input import input_size_of
from ..measure.noise import random_images
from ..measure.turns import Turns
from .answers import Answers
from .cost import MS, Cost, Fitted, Macs, Milliseconds
from .families import Family, families
from .fitted import measure_fitted
from .memory import Memory
from .outcome import ACCURACY, ANSWERS, SIMILARITY
from .resume import Resumable
from .sample import Sample, answer, answers_for, for_search
from .search import Candidate, Search
from .shapes import Shape
from .table import measure_table
from .target import Target
from .timing import Clock, Way

Progress = Callable[[str], None]  # what is being done, in a few words
CORRECTIONS = 3  # times that a budget is corrected by the speed that a schedule turned out to have
CLOSE, AMPLE = 0.99, 1.03  # of the speed that is asked for: below, too little; above, more than was asked for
SPEEDS = (1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.75, 2.0, 2.25, 2.5, 3.0)  # that are tried for a loss


class Limits(NamedTuple):
    """When a search ends."""

    tries: int
    deadline: float  # of `Memory.seconds`
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
    clock: Clock
    memory: Memory

    @property
    def device(self) -> torch.device:
        """Where the model runs."""
        return self.clock.way.device

    def turns(self, name: str, models: Sequence[nn.Module]) -> Turns:
        """Seconds of a batch in turns: of the unreduced model, "0", and of these, "1" and so on."""
        return Turns(self.memory.value(f"times of {name}", lambda: self.clock.turns(models).seconds))

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
        search = self.within(budget, limits, say, self.families)
        say(f"methods: {len(self.families)} kinds with plain schedules")
        best = search.run()
        if self.cost.unit == MS and goal.name in ("speedup", "latency_ms"):
            best = self.corrected(goal, search, best, say)
        return best, tried + search.tried

    def within(self, budget: float, limits: Limits, say: Progress, families: Sequence[Family]) -> Search:
        """A search within a budget."""

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

    def corrected(self, goal: Target, search: Search, best: Candidate, say: Progress) -> Candidate:
        """The same shape, with fewer or more patches if it is slower or faster in turns than the table says."""
        for _ in range(CORRECTIONS):
            say("speed in turns")
            tuned = reduce_tokens(copy.deepcopy(self.unreduced), best.method)
            turns = self.turns(repr(best.method), [tuned])
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
        budget, tried, lost = self.cost.unreduced, list[Candidate](), 0.0
        for speed in SPEEDS:
            say(f"loss at {speed:g} times the speed")
            search = self.within(self.cost.unreduced / speed, limits._replace(tries=0), say, self.families[:1])
            try:
                best = search.run()
            except ValueError as error:  # no schedule is so fast
                if speed == SPEEDS[0]:
                    raise ValueError(
                        f"no schedule is {speed:g} times as fast as the unreduced model: {error}"
                    ) from error
                break
            tried += search.tried
            lost = self._lost(best)
            if lost > points:
                break
            budget = search.budget
        if budget == self.cost.unreduced:
            raise ValueError(
                f"no schedule that is at least {SPEEDS[0]:g} times as fast loses at most {points:g} on the "
                f"{len(self.sample.searched)} images that were searched with: the best loses {lost:.3g}."
            )
        return budget, tried

    def _lost(self, best: Candidate) -> float:
        """What is lost on the images that are searched with, in points or per cent."""
        return self.memory.value(f"loss of {best.method!r}", lambda: self._measured_loss(best))

    def _measured_loss(self, best: Candidate) -> float:
        if self.loss == SIMILARITY:
            return 100 * best.divergence
        tuned = reduce_tokens(copy.deepcopy(self.unreduced), best.method)
        found = answer(tuned, self.sample.x_ICHW[self.sample.searched], self.answers, self.device).argmax(dim=1)
        wanted = self.wanted_IK[self.sample.searched].argmax(dim=1)
        if self.loss == ANSWERS:
            return 100 * int((found != wanted).sum()) / len(found)
        labels = self.sample.labels_I[self.sample.searched]
        return 100 * int((wanted == labels).sum() - (found == labels).sum()) / len(found)


def prepare(model: nn.Module, sample: Sample, way: Way, by: str, memory: Memory, say: Progress) -> Bench:
    """Compute the unreduced model's answers and measure what schedules cost. model: on the device of that way."""
    spec = read_backbone(model).spec
    answers, kinds = answers_for(model, spec.num_prefix), families(spec)
    say("answers of the unreduced model")
    wanted_IK = memory.tensor(
        "answers of the unreduced model", lambda: answer(model, sample.x_ICHW, answers, way.device)
    )
    reduced = reduce_tokens(copy.deepcopy(model), kinds[0].method)
    searched = sample.x_ICHW[sample.searched]
    batches = [part.to(way.device, dtype_of(model, part)) for part in for_search(searched)]
    resumable, clock = Resumable(reduced, batches, answers, memory), Clock(way, model)
    costs = in_time(reduced, clock, kinds, memory, say) if by == "time" else in_macs(model, spec, kinds)
    return Bench(model, resumable, sample, spec, answers, wanted_IK, kinds, costs, clock, memory)


def in_macs(model: nn.Module, spec: ViTSpec, kinds: Sequence[Family]) -> dict[str, Cost]:
    """Multiply-adds by family."""
    model_macs = count_macs(model)
    return {family.name: Macs(spec, model_macs, family.make) for family in kinds}


def in_time(
    reduced: nn.Module, clock: Clock, kinds: Sequence[Family], memory: Memory, say: Progress
) -> dict[str, Cost]:
    """Measured times by family. Those that are fitted to whole models are the same for all."""
    way, spec = clock.way, read_backbone(clock.unreduced).spec
    if way.by_block:
        say("time per block and number of patches")
        makes = {family.name: family.make for family in kinds}
        x_BCHW = random_images(way.batch_size, input_size_of(clock.unreduced))
        x_BCHW = x_BCHW.to(way.device, dtype_of(clock.unreduced, x_BCHW))

        def measure() -> dict[str, Any]:
            return {name: asdict(each) for name, each in measure_table(reduced, x_BCHW, makes).items()}

        return {name: Milliseconds.read(each) for name, each in memory.value("table of times", measure).items()}
    say("time of a few schedules")
    found = memory.value("fitted times", lambda: measure_fitted(clock, spec, kinds[0].make).content())
    return dict.fromkeys((family.name for family in kinds), Fitted(spec, **found))
