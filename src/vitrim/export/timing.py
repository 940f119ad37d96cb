"""Speed of an artefact against eager, and against the unreduced model by the same route."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from ..measure.benchmark import benchmark
from .route import Runner

ARTEFACT, EAGER, UNREDUCED = "artefact", "eager", "unreduced"


@dataclass(frozen=True, kw_only=True)
class Speed:
    """An artefact against another way to run a model: medians over rounds in which the two took turns."""

    over: str  # the other way: "eager", or "unreduced", the model with all its tokens by the same route
    batch_size: int
    latency_ms: float  # of one batch
    other_latency_ms: float
    speedup: float  # over the other way, in the same round
    speedup_low: float  # 10th percentile over the rounds
    speedup_high: float  # 90th percentile
    rounds: int


class _Artefact(nn.Module):
    """A runner where a module is expected."""

    runner: Runner

    def __init__(self, runner: Runner):
        super().__init__()
        self.__dict__["runner"] = runner  # past nn.Module: a program of torch.export is one, and need not register

    def forward(self, x_BCHW: Tensor) -> Tensor:
        out: Tensor = self.runner(x_BCHW)
        return out


def measure(
    model: nn.Module,
    runner: Runner,
    unreduced: Runner | None,
    images_ICHW: Tensor,
    batch_size: int,
    rounds: int,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Speed, ...]:
    """The artefact over eager and, if there is one, over the unreduced model's artefact.

    Every runtime uses torch.get_num_threads() threads.
    """
    others = {EAGER: model} | ({} if unreduced is None else {UNREDUCED: _Artefact(unreduced)})
    x_BCHW = images_ICHW[:batch_size].contiguous()
    return tuple(_against(name, other, _Artefact(runner), x_BCHW, rounds, progress) for name, other in others.items())


def _against(
    name: str,
    other: nn.Module,
    artefact: nn.Module,
    x_BCHW: Tensor,
    rounds: int,
    progress: Callable[[int, int], None] | None,
) -> Speed:
    pair = {name: other, ARTEFACT: artefact}
    found = benchmark(pair, images_ICHW=x_BCHW, batch_size=len(x_BCHW), rounds=rounds, progress=progress)
    timing = found[ARTEFACT]
    return Speed(
        batch_size=len(x_BCHW),
        latency_ms=timing.latency_ms,
        over=name,
        other_latency_ms=found[name].latency_ms,
        speedup=timing.speedup,
        speedup_low=timing.speedup_low,
        speedup_high=timing.speedup_high,
        rounds=timing.rounds,
    )
