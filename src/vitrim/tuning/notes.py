"""What a reader of a search's figures must know."""

from __future__ import annotations

from collections.abc import Iterator

from .cost import Cost, Fitted, Milliseconds
from .outcome import ACCURACY, ANSWERS, Tuned
from .target import Target

NOISY_TABLE = 0.1  # of the times of a block, between two halves of the rounds


def notes(found: Tuned, goal: Target, cost: Cost) -> Iterator[str]:
    """All of them. cost: what the search went by."""
    yield from instead_of_accuracy(goal, found.loss)
    yield from _on_figures(found, goal)
    yield from _on_times(cost)


def instead_of_accuracy(goal: Target, loss: str) -> Iterator[str]:
    """What a goal in points is read as where no accuracy can be measured."""
    if goal.name != "max_loss" or loss == ACCURACY:
        return
    if loss == ANSWERS:
        yield f"The images have no labels, so {goal.value:g} % of the answers may change from the unreduced model's."
    else:
        yield f"The model has no classes, so its embeddings may lose {goal.value:g} % of the cosine similarity."


def _on_figures(found: Tuned, goal: Target) -> Iterator[str]:
    """Whether the goal is met and what speaks against the answer."""
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
            f"Whether it loses at most {goal.value:g} cannot be told from {found.num_held_out} images (95 % interval "
            f"{low:.2f} to {high:.2f}){needed}."
        )
    for row in found.beaten_by():
        yield f"{row.name} is at least as fast and loses less ({row.lost:.2f}): take it instead."
    if best.speedup.noisy:
        yield f"The machine was busy: the speed-up varied from {best.speedup.range} between rounds. Measure again."


def _on_times(cost: Cost) -> Iterator[str]:
    """How far the times can be trusted that the search went by."""
    if isinstance(cost, Fitted):
        yield (
            "Time was fitted to a few whole models, since a block alone runs otherwise there; it misses them by "
            f"{cost.error:.0%} at most. The speeds in the table are measured."
        )
    if isinstance(cost, Milliseconds) and cost.noise > NOISY_TABLE:
        yield (
            f"The machine was busy while blocks were timed: two halves of the rounds are {cost.noise:.0%} apart. Tune "
            "again when it is idle."
        )
