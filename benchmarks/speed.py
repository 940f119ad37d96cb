"""Speed-up of each method over the unreduced model, relative to its MAC ratio."""

from __future__ import annotations

from collections.abc import Iterator

import timm

import vitrim
from vitrim.measure.benchmark import DTYPES, clone_sharing_weights

from .experiment import Cell, Experiment
from .methods import METHODS

ABOUT = """Speed-up of each method over the unreduced model, relative to its MAC ratio.

Weights are random, since speed does not depend on them. All methods take turns in every round of one process.
"""


def measure(cell: Cell) -> Iterator[dict[str, object]]:
    base, size = timm.create_model(cell.model, img_size=cell.img_size).eval(), (3, cell.img_size, cell.img_size)
    models = {name: vitrim.reduce_tokens(clone_sharing_weights(base), METHODS[name]) for name in cell.method}
    models = {"unreduced": base, **models}
    full = vitrim.count_macs(base, size)
    timings = vitrim.benchmark(models, size, batch_size=cell.batch, rounds=cell.rounds, dtype=cell.dtype)
    for name, timing in timings.items():
        macs = vitrim.count_macs(models[name], size)
        yield {
            "method": name,
            "gmacs": f"{macs / 1e9:.4f}",
            "mac_ratio": full / macs,
            "speedup": timing.speedup,
            "speedup_per_mac_ratio": timing.speedup * macs / full,
            "rounds": timing.rounds,
            "peak_memory_mib": timing.peak_memory_mb,
        }


EXPERIMENT = Experiment(
    about=ABOUT,
    file="speed_{on}_{dtype}",
    axes={
        "model": ("deit_tiny_patch16_224", "deit_small_patch16_224"),
        "img_size": (224,),
        "batch": (32, 1),
        "dtype": ("fp32",),
    },
    together={"method": list(METHODS)},
    options={"rounds": 30},
    choices={"method": METHODS, "dtype": DTYPES},
    measure=measure,
)
