"""Where the time goes on a GPU: the kernels of a method, of its floor and of the unreduced model."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from vitrim.measure.benchmark import DTYPES, moved

from .experiment import Cell, Experiment
from .gpu_shared import OFFICIAL_TOME, base_model, place, static_methods, tried
from .gpu_speed import WANTED, reduced
from .rows import Row, files_of, read

ABOUT = """Where the time goes on a GPU: the kernels of a method, of its floor and of the unreduced model, eager.

share: of the time of all kernels of that model. `python -m benchmarks gpu` profiles the worst cell of gpu_speed.
"""
COLUMNS = dict.fromkeys(("of", "kernel", "calls", "microseconds", "share"), "")
FORWARDS, MOST = 5, 12
CELL = ("model", "img_size", "batch", "dtype", "method")


def worst_cell(results: Path, device: str) -> Row | None:
    """The eager cell of gpu_speed with the lowest speed-up relative to its MAC ratio, at batch 32 or more."""
    on = f"cpu{torch.get_num_threads()}" if device == "cpu" else device
    rows = [row for path in files_of(f"gpu_speed_{on}", results) for row in read(path)]
    rows = [row for row in rows if row["mode"] == "eager" and row["speedup_per_mac_ratio"]]
    rows = [row for row in rows if int(row["batch"]) >= 32 and row["method"] != OFFICIAL_TOME]
    return min(rows, key=lambda row: float(row["speedup_per_mac_ratio"]), default=None)


def measure(cell: Cell) -> Iterator[dict[str, object]]:
    yield from tried(COLUMNS, profiled(cell))


def profiled(cell: Cell) -> Iterator[dict[str, object]]:
    size = (3, cell.img_size, cell.img_size)
    base = base_model(cell.model, cell.img_size)
    x_BCHW = torch.randn(cell.batch, *size, device=cell.device, dtype=DTYPES[cell.dtype])
    for name, model in {"unreduced": base, **reduced(base, cell, size)}.items():
        yield from kernels(name, moved(model, x_BCHW.device, x_BCHW.dtype), x_BCHW)


@torch.inference_mode()
def kernels(name: str, model: nn.Module, x_BCHW: Tensor) -> Iterator[dict[str, object]]:
    """Yield the kernels that take longest, per forward."""
    on_gpu = x_BCHW.device.type == "cuda"
    model(x_BCHW)
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]) as seen:
        for _ in range(FORWARDS):
            model(x_BCHW)
    times = [
        (each.self_device_time_total if on_gpu else each.self_cpu_time_total, each.count, each.key)
        for each in seen.key_averages()
        if not on_gpu or each.device_type == torch.autograd.DeviceType.CUDA
    ]
    total = sum(time for time, _, _ in times)
    for time, count, key in sorted(times, reverse=True)[:MOST]:
        yield {
            "of": name,
            "kernel": key[:100],
            "calls": count // FORWARDS,
            "microseconds": round(time / FORWARDS),
            "share": time / total,
        }


def arguments(cell: Row, options: argparse.Namespace) -> list[str]:
    """The command line that profiles a cell."""
    wanted = [word for axis in CELL for word in (f"--{axis.replace('_', '-')}", cell[axis])]
    return [*wanted, "--device", options.device, "--results", str(options.results)]


EXPERIMENT = Experiment(
    about=ABOUT,
    file="gpu_kernels_{on}",
    axes={
        "model": tuple(WANTED["model"])[:1],
        "img_size": (224,),
        "batch": (256,),
        "dtype": ("bf16",),
        "method": ("tome",),
    },
    options={"device": "cuda"},
    choices={"dtype": DTYPES, "method": static_methods(), "device": ("cpu", "cuda")},
    place=place,
    measure=measure,
)
