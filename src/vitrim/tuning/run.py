"""`vitrim.tune`: from a goal to the setting that meets it and changes the answers least."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from ..backbones.reader import find_stack
from ..heads import check_module
from ..kinds import is_number, is_whole
from ..measure.forwards import check_device
from ..rivals import Rebuild
from .against import Field
from .bench import Limits, Progress, prepare
from .outcome import ACCURACY, Tuned
from .sample import load_sample
from .target import Target, target_of

COSTS = ("time", "macs")


def tune(
    model: nn.Module,
    images: str | Path,
    *,
    speedup: float | None = None,
    latency_ms: float | None = None,
    gmacs: float | None = None,
    max_loss: float | None = None,
    batch_size: int = 1,
    device: torch.device | str = "cpu",
    limit: int | None = 1024,
    num_search: int | None = None,
    minutes: float = 10.0,
    tries: int = 200,
    seed: int = 0,
    by: str = "time",
    skip_bad: bool = False,
    rebuild: Rebuild | None = None,
    name: str | None = None,
    progress: Progress | None = None,
) -> Tuned:
    """Find the schedule that meets a goal and changes the model's answers least. No labels, no training.

    Half of the images are searched with, the other half gives the figures. Candidates are compared by how far their
    answers are from the unreduced model's (`Answers.divergence`), and cost what a table of this machine's own times
    says.

    Args:
        model: not reduced; it stays as it is.
        images: a folder of images like those that the model will see. Labels are used for the report alone.
        speedup: goal: times the unreduced model's speed.
        latency_ms: goal: milliseconds of one batch.
        gmacs: goal: 1e9 multiply-adds of one image.
        max_loss: goal: the fastest that loses at most so many points of accuracy; of answers, without labels.
        batch_size: images in a batch of the forwards that are timed.
        device: where the model runs.
        limit: at most so many images, evenly spread over classes.
        num_search: images to search with; None for half of them. The others are held out.
        minutes: when the search ends at the latest; measuring its result takes some more.
        tries: changes to the schedule that are tried.
        seed: of the split of the images and of the search.
        by: what cost means for a speedup or a loss: "time" or "macs".
        skip_bad: leave out images that cannot be read.
        rebuild: makes the model for another image size, for the rival of a smaller input.
        name: of the model, for reports.
        progress: called with what is being done.

    Returns:
        The setting, and the rows that it was compared with.

    Raises:
        ValueError: for no goal or several, one that cannot be met, or too few images.
    """
    goal = target_of(speedup=speedup, latency_ms=latency_ms, gmacs=gmacs, max_loss=max_loss)
    settings = Settings(
        Path(images), batch_size, device, limit, num_search, minutes, tries, seed, by, skip_bad, rebuild
    )
    return _tuned(model, goal, settings, name, progress or _silent)


@dataclass(frozen=True)
class Settings:
    """What `tune` is asked, beside its goal."""

    images: Path
    batch_size: int
    device: torch.device | str
    limit: int | None
    num_search: int | None
    minutes: float
    tries: int
    seed: int
    by: str
    skip_bad: bool
    rebuild: Rebuild | None

    def __post_init__(self) -> None:
        minutes = is_number(self.minutes) and self.minutes > 0
        if not (is_whole(self.batch_size, 1) and is_whole(self.tries, 0) and minutes):
            raise ValueError(
                "tune needs a batch size of at least 1, tries of at least 0 and minutes above 0, not "
                f"batch_size={self.batch_size!r}, tries={self.tries!r}, minutes={self.minutes!r}."
            )
        if self.num_search is not None and not is_whole(self.num_search, 2):
            raise ValueError(f"num_search is a whole number of images, at least 2, not {self.num_search!r}.")
        if self.by not in COSTS:
            raise ValueError(f"by is one of {', '.join(COSTS)}, not {self.by!r}.")


def _tuned(model: nn.Module, goal: Target, settings: Settings, name: str | None, say: Progress) -> Tuned:
    check_module(model)
    if find_stack(model) is not None:
        raise ValueError("tune begins with a model that carries all its tokens: call restore(model) first.")
    began = time.monotonic()
    say("images")
    place = check_device(settings.device)
    chosen = settings.images, settings.limit, settings.seed, settings.num_search
    sample = load_sample(model, *chosen, skip_bad=settings.skip_bad)
    bench = prepare(model.to(place), sample, place, goal.cost(settings.by), settings.batch_size, say)
    limits = Limits(settings.tries, began + 60 * settings.minutes, settings.seed)
    best, tried = bench.search(goal, limits, say)
    field = Field(bench, settings.images, settings.limit, settings.skip_bad, settings.rebuild)
    found = Tuned(
        model=name or bench.spec.name,
        method=best.family.method,
        settings=best.settings,
        target=(goal.name, goal.value),
        unit=bench.cost.unit,
        unreduced_cost=bench.cost.unreduced,
        cost=best.cost,
        rows=field.rows(list(field.contenders(best)), say),
        schedule=best.schedule,
        num_searched=len(sample.searched),
        num_held_out=len(sample.held_out),
        num_tried=len(tried),
        tried=[each.content() for each in tried],
        seconds=time.monotonic() - began,
        loss=bench.loss,
        divergence_unit=bench.answers.unit,
        batch_size=settings.batch_size,
        seed=settings.seed,
        block_ms=bench.block_ms(best),
    )
    return replace(found, notes=tuple(_notes(found, goal)))


def _silent(_: str) -> None:
    """Say nothing."""


def _notes(found: Tuned, goal: Target) -> Iterator[str]:
    """What a reader of the figures must know."""
    best = found.best
    if goal.name == "speedup" and best.speedup < goal.value:
        yield f"{goal} was asked for, and {best.speedup.median:.2f} was measured at the end."
    if goal.name == "latency_ms" and best.latency_ms > goal.value:
        yield f"{goal} was asked for, and {best.latency_ms:.3g} ms was measured at the end."
    if best.speedup < 1:
        yield f"At batch {found.batch_size} it is slower than the unreduced model: its blocks are too small to gain."
    low, high = best.interval
    if goal.name == "max_loss" and high > goal.value:
        needed = (
            "" if best.paired is None else f": that takes about {best.paired.images_for(goal.value)} held-out images"
        )
        yield (
            f"Whether it loses {goal} cannot be told from {found.num_held_out} images (95 % interval {low:.2f} to "
            f"{high:.2f}){needed}."
        )
    if goal.name == "max_loss" and found.loss != ACCURACY:
        yield f"There is no accuracy to measure here, so the goal is read as {found.what_is_lost}."
    for row in found.beaten_by():
        yield f"{row.name} is at least as fast and loses less ({row.lost:.2f}): take it instead."
    if best.speedup.noisy:
        yield f"The machine was busy: the speed-up varied from {best.speedup.range} between rounds. Measure again."
