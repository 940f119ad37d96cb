"""Time an artefact against eager, and against the unreduced model by the same route."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn

from ..measure.turns import HasSpeedup, Spread, take_turns
from .route import Runner

ARTEFACT, EAGER, UNREDUCED = "artefact", "eager", "unreduced"
WARMUP = 3


@dataclass(frozen=True, kw_only=True)
class Speed(HasSpeedup):
    """The speed of an artefact relative to another way to run the model: medians over interleaved rounds."""

    over: str  # the other way: "eager", or "unreduced" for the unreduced model by the same route
    batch_size: int
    latency_ms: float  # of one batch
    other_latency_ms: float
    speedup: Spread  # relative to the other way in the same round
    rounds: int


def time_artefact(
    model: nn.Module,
    runner: Runner,
    unreduced: Runner | None,
    images_ICHW: Tensor,
    batch_size: int,
    rounds: int,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Speed, ...]:
    """Time the artefact against eager and, if given, against the artefact of the unreduced model.

    The caller sets eval and inference mode. Every runtime uses torch.get_num_threads() threads.
    """
    x_BCHW = images_ICHW[:batch_size].contiguous()
    others: dict[str, Runner] = {EAGER: model} | ({} if unreduced is None else {UNREDUCED: unreduced})
    speeds = []
    for name, other in others.items():
        pair = {name: partial(other, x_BCHW), ARTEFACT: partial(runner, x_BCHW)}
        turns = take_turns(pair, rounds, warmup=WARMUP, progress=progress)
        speeds.append(
            Speed(
                over=name,
                batch_size=len(x_BCHW),
                latency_ms=turns.median(ARTEFACT) * 1e3,
                other_latency_ms=turns.median(name) * 1e3,
                speedup=turns.ratio(ARTEFACT, name),
                rounds=rounds,
            )
        )
    return tuple(speeds)
