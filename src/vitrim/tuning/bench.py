"""What a search works with: the model reduced, the unreduced model's answers, and what schedules cost."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..api import reduce_tokens
from ..backbones.reader import read_backbone
from ..core.spec import ViTSpec
from ..measure.forwards import dtype_of
from ..measure.macs import count_macs
from ..measure.noise import random_images
from ..methods.ward import Ward
from .answers import Answers
from .cost import Cost, Macs, Milliseconds, measure_milliseconds
from .outcome import ACCURACY, ANSWERS, SIMILARITY
from .resume import Resumable
from .sample import BATCH, Sample, answer, answers_for
from .search import Candidate, Search
from .shapes import Frame, Schedule
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
    frame: Frame
    cost: Cost
    macs: Macs
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
    def block_ms(self) -> Mapping[str, Mapping[int, float]]:
        """The measured times, if cost is time."""
        cost = self.cost
        if not isinstance(cost, Milliseconds):
            return {}
        return {"attention": cost.attention, "mlp": cost.mlp, "reducing": cost.reducing}

    def make(self, schedule: Sequence[int]) -> Ward:
        """The method of a schedule."""
        return ward(schedule)

    def gmacs(self, schedule: Schedule) -> float:
        """1e9 multiply-adds under a schedule."""
        return self.macs(schedule)

    def search(self, goal: Target, limits: Limits, say: Progress) -> tuple[Candidate, int]:
        """The best schedule for the goal, and how many were tried."""
        if goal.name == "max_loss":
            budget, tried = self._budget_for_loss(goal.value, limits, say)
        else:
            budget, tried = goal.budget(self.cost.unreduced), 0
        search = self._within(budget, limits, say)
        best = search.run()
        if isinstance(self.cost, Milliseconds) and goal.name in ("speedup", "latency_ms"):
            best = self._corrected(goal, search, best, say)
        return best, tried + search.num_tried

    def _within(self, budget: float, limits: Limits, say: Progress) -> Search:
        def progress(done: int, total: int, best: float) -> None:
            say(f"schedules: {done} of {total} changes tried, divergence {best:.4f}")

        wanted = list(torch.split(self.wanted_IK[self.sample.searched], BATCH))
        return Search(
            self.resumable,
            wanted,
            self.frame,
            self.make,
            self.cost,
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
            tuned = reduce_tokens(copy.deepcopy(self.unreduced), self.make(best.schedule))
            turns = time_in_turns([self.unreduced, tuned], self.batch_size, self.device)
            reached = turns.ratio("1", "0") / goal.value
            if goal.name == "latency_ms":
                reached = goal.value / (1e3 * turns.median("1"))
            if CLOSE <= reached <= AMPLE:
                break
            search.budget *= reached
            found = search.run_one(best.shape)
            if found is None:
                break
            best = found
        return best

    def _budget_for_loss(self, points: float, limits: Limits, say: Progress) -> tuple[float, int]:
        """The smallest budget whose plain schedules lose no more on the images that are searched with."""
        budget, tried = self.cost.unreduced, 0
        for speed in SPEEDS:
            say(f"loss at {speed:g} times the speed")
            search = self._within(self.cost.unreduced / speed, limits._replace(tries=0), say)
            try:
                best = search.run()
            except ValueError as error:  # no schedule is so fast
                if speed == SPEEDS[0]:
                    raise ValueError(
                        f"no schedule is {speed:g} times as fast as the unreduced model: {error}"
                    ) from error
                break
            tried += search.num_tried
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
        tuned = reduce_tokens(copy.deepcopy(self.unreduced), self.make(best.schedule))
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
    reduced = reduce_tokens(copy.deepcopy(model), Ward())
    batches = [part.to(device, dtype_of(model, part)) for part in torch.split(sample.x_ICHW[sample.searched], BATCH)]
    macs = Macs(spec, count_macs(model, tuple(sample.x_ICHW.shape[1:])), ward)  # type: ignore[arg-type]
    cost: Cost = macs
    if by == "time":
        say("time per block and number of patches")
        x_BCHW = random_images(batch_size, tuple(sample.x_ICHW.shape[1:]))
        cost = measure_milliseconds(reduced, x_BCHW.to(device, dtype_of(model, x_BCHW)), ward)
    resumable, frame = Resumable(reduced, batches, answers), Frame.of(spec)
    return Bench(model, resumable, sample, spec, answers, wanted_IK, frame, cost, macs, batch_size, device)


def ward(schedule: Sequence[int]) -> Ward:
    """The method of a schedule."""
    return Ward(patches=tuple(schedule))
