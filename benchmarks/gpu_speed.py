"""Speed and memory of every static method on a GPU, beside its floor, from the most wanted cells to the least."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

from torch import nn

import vitrim
from vitrim.core.method import plain_settings
from vitrim.measure.benchmark import DTYPES, benchmark, clone_sharing_weights
from vitrim.measure.budget.floor import Floor
from vitrim.measure.macs import count_macs

from .experiment import Cell, Experiment
from .gpu_shared import OFFICIAL_TOME, TARGET, at_target, base_model, full_macs, place, static_methods, tried

ABOUT = f"""Speed and memory of every static method, in turns with the unreduced model and with the method's floor.

Each method has {TARGET} times fewer multiply-adds. The floor leaves as many tokens, taken by a slice: time_of_floor is
what the method takes beyond it. Weights are random. mode: eager, or a mode of torch.compile (reduce-overhead: CUDA
graphs). The most wanted cells come first, so a run that is cut short by --minutes has measured what matters.
"{OFFICIAL_TOME}" is the authors' patch, where it is installed.
"""
MEASURED = (
    *("gmacs", "mac_ratio", "speedup", "speedup_p10", "speedup_p90", "speedup_per_mac_ratio", "time_of_floor"),
    *("time_of_floor_p10", "time_of_floor_p90", "latency_ms", "images_per_s", "peak_memory_mib"),
    *("memory_of_unreduced", "rounds"),
)
COLUMNS = dict.fromkeys(MEASURED, "")
MODES: dict[str, bool | str] = {"eager": False, "default": True, "reduce-overhead": "reduce-overhead"}
WANTED: dict[str, dict[Any, int]] = {  # what is measured later for each value: the sum decides
    "model": {"vit_base_patch16_224": 0, "vit_small_patch16_224": 1, "vit_large_patch16_224": 2},
    "img_size": {224: 0, 384: 2, 518: 3},
    "batch": {256: 0, 1: 0, 32: 1, 1024: 2, 8: 3},
    "dtype": {"bf16": 0, "fp16": 2},
    "mode": {"eager": 0, "reduce-overhead": 1, "default": 2},
    "method": {"evit": 0, "tome": 0, "token_mergence": 1, "beyond_attentive": 1, "ward": 1},
}
OTHERS = 2  # of methods that are not named


def order(cell: Cell) -> int:
    """How late a cell is measured."""
    return sum(WANTED[axis].get(getattr(cell, axis), OTHERS) for axis in WANTED)


def measure(cell: Cell) -> Iterator[dict[str, object]]:
    yield from tried(COLUMNS, timed(cell))


def timed(cell: Cell) -> Iterator[dict[str, object]]:
    size = (3, cell.img_size, cell.img_size)
    base = base_model(cell.model, cell.img_size)
    models = {"unreduced": base, **reduced(base, cell, size)}
    timings = benchmark(
        models,
        size,
        batch_size=cell.batch,
        rounds=cell.rounds,
        device=cell.device,
        dtype=cell.dtype,
        compile=MODES[cell.mode],
    )
    own, full, floor = timings[cell.method], timings["unreduced"], timings.get("floor")
    macs = count_macs(models["floor" if cell.method == OFFICIAL_TOME else cell.method], size)
    yield {
        "gmacs": f"{macs / 1e9:.4f}",
        "mac_ratio": full_macs(base, size) / macs,
        "speedup": own.speedup,
        "speedup_per_mac_ratio": own.speedup * macs / full_macs(base, size),
        "time_of_floor": None if floor is None else floor.speed_over(own),
        "latency_ms": own.latency_ms,
        "images_per_s": own.images_per_s,
        "peak_memory_mib": own.peak_memory_mb,
        "memory_of_unreduced": own.peak_memory_mb / full.peak_memory_mb,
        "rounds": own.rounds,
    }


def reduced(base: nn.Module, cell: Cell, size: tuple[int, int, int]) -> dict[str, nn.Module]:
    """The reduced model and its floor."""
    method = at_target(base, "tome" if cell.method == OFFICIAL_TOME else cell.method, size)
    floor = vitrim.reduce_tokens(clone_sharing_weights(base), Floor(method=method))
    own = clone_sharing_weights(base)
    if cell.method != OFFICIAL_TOME:
        return {cell.method: vitrim.reduce_tokens(own, method), "floor": floor}
    tome = importlib.import_module("tome")
    tome.patch.timm(own)
    r: Any = plain_settings(method)["r"]
    setattr(own, "r", list(r) if isinstance(r, tuple) else r)  # noqa: B010  a name that no Module declares
    return {cell.method: own, "floor": floor}


EXPERIMENT = Experiment(
    about=ABOUT,
    file="gpu_speed_{on}",
    axes={
        "model": tuple(WANTED["model"]),
        "img_size": tuple(WANTED["img_size"]),
        "batch": (1, 8, 32, 256, 1024),
        "dtype": tuple(WANTED["dtype"]),
        "mode": tuple(MODES),
        "method": (*static_methods(), OFFICIAL_TOME),
    },
    options={"device": "cuda", "rounds": 25},
    choices={"dtype": DTYPES, "mode": MODES, "device": ("cpu", "cuda")},
    order=order,
    place=place,
    measure=measure,
)
