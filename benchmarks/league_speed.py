"""The league table: the speed of every method and rival at equal multiply-adds, all of a ratio in the same turns."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import torch
from torch import nn

import vitrim
from vitrim.measure.benchmark import DTYPES
from vitrim.measure.model_input import input_size_of
from vitrim.rivals import UNREDUCED

from .contenders import Contender, applies, base_model, column_values, load_plugin, make, names
from .experiment import Cell, Experiment
from .league import OPTIONS

ABOUT = """The speed of every method and rival at equal multiply-adds, all of a ratio in the same turns.

    python -m benchmarks league_speed
    python -m benchmarks league_speed --plugin mine.py --method mine

Weights are random unless --checkpoint gives them, since speed does not depend on them. int8 is left out: without a
compiler it gains nothing (docs/speed.md). What skips unread work has no ratio, and takes turns with all of them.
"""
LEFT_OUT, EVERYWHERE = ("int8",), ("unread",)


def measure(cell: Cell) -> Iterator[dict[str, object]]:
    load_plugin(cell.plugin)
    base, made = _contenders(cell.model, cell.checkpoint, cell.target, tuple(cell.method))
    full = vitrim.count_macs(base)
    models = {UNREDUCED: base, **{each.name: each.model for each in made if each.model is not None}}
    sizes = {name: input_size_of(model) for name, model in models.items()}
    timings = vitrim.benchmark(models, sizes, batch_size=cell.batch, rounds=cell.rounds, dtype=cell.dtype)
    for each in made:
        timing = timings.get(each.name)
        yield {
            "method": each.name,
            **column_values(each, full),
            "images_per_s": timing and timing.images_per_s,
            "latency_ms": timing and timing.latency_ms,
            **({"speedup": timing.speedup} if timing else dict.fromkeys(("speedup", "speedup_p10", "speedup_p90"))),
            "rounds": timing and timing.rounds,
        }


@cache
def _contenders(
    model: str, checkpoint: str, target: float, wanted: tuple[str, ...]
) -> tuple[nn.Module, list[Contender]]:
    """The unreduced model and the contenders, for all batch sizes."""
    torch.manual_seed(0)
    base = base_model(model, checkpoint) if checkpoint else vitrim.build_model(model)
    return base, [make(base, name, target) for name in wanted if name not in (UNREDUCED, *LEFT_OUT)]


def timed(name: str) -> bool:
    """Whether a contender has speeds at a ratio."""
    return name in EVERYWHERE or applies(name, 2.0)


EXPERIMENT = Experiment(
    about=ABOUT,
    file="league_speed_{on}_{dtype}",
    axes={
        "model": ("deit_tiny_patch16_224",),
        "dtype": ("fp32",),
        "target": (1.25, 1.5, 2.0),
        "batch": (1, 32),
    },
    together={"method": [name for name in names() if timed(name)]},
    options={"rounds": 25, **OPTIONS},
    choices={"dtype": DTYPES},
    measure=measure,
)
