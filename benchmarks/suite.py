"""Speed and memory of each method, relative to the unreduced model and to research code."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import timm
import torch
from torch import nn

import vitrim
from vitrim.core.method import Method
from vitrim.measure.benchmark import DTYPES, Timing, benchmark, clone_sharing_weights
from vitrim.measure.macs import count_macs

from .experiment import Cell, Experiment, machine
from .methods import METHODS
from .reference_modes import MaskedEViT, ReferenceMode, reference_modes
from .rows import Row, written

ABOUT = """Speed and memory of each method, relative to the unreduced model and to research code.

    python -m benchmarks suite                       # EViT on DeiT-S, 224 to 1024 px, batch 1 to 128
    python -m benchmarks suite --method "ToMe r=13" "TM 0.7" --img-size 224 --batch 1 32 --dtype fp32 bf16
    python -m benchmarks suite --device cuda --compile reduce-overhead --dtype fp16 bf16

Weights are random, since speed does not depend on them. In each cell, the unreduced model, the method and its
reference modes take turns in one process, on the same weights, after a check that their logits are equal. The reference
modes (reference_modes.py) use the full attention matrix, or masks instead of removal. Ratios are taken within a round:
median, 10th and 90th percentile. A cell or mode beyond the allowed time or memory gets a row that says so.
--malloc keep: keep freed memory. --compile: no, default, or another mode of torch.compile. --min-rounds: skip a cell
with time for fewer rounds. --memory-gib: limit for the attention matrices of the matrix mode.
"""
EQUAL = 1e-3  # relative to the largest logit: rounding, and patches whose scores are equal up to rounding
GIB = 2**30
# glibc must not return memory between two forwards, only to fault it in again page by page.
KEEP = {"MALLOC_MMAP_THRESHOLD_": str(4 * GIB), "MALLOC_TRIM_THRESHOLD_": str(16 * GIB)}
COUNTS = ("mac_ratio", "speedup", "speedup_p10", "speedup_p90", "speedup_per_mac_ratio")
OVER = ("over_matrix", "over_matrix_p10", "over_matrix_p90", "over_masks", "over_masks_p10", "over_masks_p90")
MEMORY = ("peak_memory_mib", "memory_of_unreduced", "memory_of_matrix")
MEASURED = ("gmacs", *COUNTS, "latency_ms", *OVER, "matrix_speedup", *MEMORY, "difference", "rounds")


def settles(row: Row, cell: Cell) -> bool:
    """Whether an earlier row was allowed as much time and memory, or skipped nothing."""
    minutes, memory = float(row["cell_minutes"]), float(row["memory_gib"])
    return row["skipped"] == "" or (minutes >= cell.cell_minutes and memory >= cell.memory_gib)


def place(cell: Cell) -> dict[str, object]:
    """Identify the machine, the device and the memory allocator."""
    device = torch.cuda.get_device_name() if cell.device == "cuda" else cell.device
    return machine(cell) | {"device": device, "malloc": cell.malloc}


def prepare(cells: Sequence[Cell]) -> None:
    """Restart the process with other rules for freed memory, if asked for."""
    wanted = any(cell.malloc == "keep" for cell in cells)
    if wanted and os.environ.get("MALLOC_TRIM_THRESHOLD_") != KEEP["MALLOC_TRIM_THRESHOLD_"]:
        os.execve(sys.executable, sys.orig_argv, os.environ | KEEP)


def measure(cell: Cell) -> Iterator[dict[str, object]]:
    allowed = {"cell_minutes": str(cell.cell_minutes), "memory_gib": str(cell.memory_gib)}
    yield {**dict.fromkeys(("skipped", *MEASURED), ""), **numbers_of(cell), **allowed}


def input_size(cell: Cell) -> tuple[int, int, int]:
    return 3, cell.img_size, cell.img_size


def numbers_of(cell: Cell) -> dict[str, str]:
    """Measure the columns of a row, including 'skipped'."""
    method = METHODS[cell.method]
    macs, reduced_macs = (meta_macs(cell, acting) for acting in (None, method))
    budget = Budget(cell, cell.batch / macs_per_second(cell))
    rounds = budget.rounds(macs + reduced_macs)
    if rounds < cell.min_rounds:
        return {"skipped": f"{cell.batch * macs / 1e9:.0f} GMACs a batch, {budget.why(macs + reduced_macs)}"}
    try:
        base: Any = timm.create_model(cell.model, img_size=cell.img_size).eval().to(cell.device)
        model = vitrim.reduce_tokens(clone_sharing_weights(base), method)
        references = reference_modes(base, method)
        work = macs + reduced_macs + extra_work(references, macs, reduced_macs)
        skipped = too_large(cell, base)
        if not skipped and budget.rounds(work) < cell.min_rounds:
            skipped = budget.why(work)
        if references and not skipped:
            rounds = budget.rounds(work)
        else:
            skipped, references = f"reference modes: {skipped}" if references else "", {}
        difference = largest_difference(model, references, cell, cell.device)
        if difference > EQUAL:
            return {"skipped": f"outputs of the reference mode differ by {difference:.1e}"}
        timings = time_modes({"unreduced": base, "vitrim": model, **references}, cell, rounds, cell.device)
    except torch.OutOfMemoryError as error:
        return {"skipped": f"out of memory: {str(error).splitlines()[0]}"}
    numbers = {"skipped": skipped, "gmacs": f"{reduced_macs / 1e9:.4f}"}
    return numbers | ratios(timings, macs / reduced_macs) | {"difference": f"{difference:.1e}" if references else ""}


@dataclass(frozen=True)
class Budget:
    """The number of rounds within the minutes of a cell."""

    cell: Cell
    seconds_per_mac: float  # seconds of a batch, per multiply-add of an image

    def rounds(self, macs: float) -> int:
        """Return the number of rounds, besides three for warm-up. macs: per image, over all modes."""
        return min(self.cell.rounds, int(60 * self.cell.cell_minutes / (macs * self.seconds_per_mac)) - 3)

    def why(self, macs: float) -> str:
        """Explain that even the fewest rounds take too long."""
        minutes = (self.cell.min_rounds + 3) * macs * self.seconds_per_mac / 60
        fewest, allowed = self.cell.min_rounds, self.cell.cell_minutes
        return f"about {minutes:.2g} minutes for {fewest} rounds, of {allowed:g} allowed"


def too_large(cell: Cell, base: Any) -> str:
    """Explain why the attention matrix is too large. Empty if it is not."""
    tokens = base.patch_embed.num_patches + 1
    size = 2 * cell.batch * base.blocks[0].attn.num_heads * tokens**2 * DTYPES[cell.dtype].itemsize / GIB
    if size <= cell.memory_gib:
        return ""
    return f"{size:.1f} GiB for logits and softmax, of {cell.memory_gib:g} allowed"


def extra_work(references: dict[str, ReferenceMode], macs: int, reduced_macs: int) -> int:
    """Estimate the work in multiply-adds: masks save nothing, and passes over the matrix roughly double the time."""
    return sum(2 * (macs if type(way) is MaskedEViT else reduced_macs) for way in references.values())


def time_modes(models: dict[str, nn.Module], cell: Cell, rounds: int, device: str) -> dict[str, Timing]:
    """Time all modes of a cell in turns."""
    mode = {"no": False, "default": True}.get(cell.compile, cell.compile)
    size, batch = input_size(cell), cell.batch
    return benchmark(
        models, size, batch_size=batch, rounds=rounds, warmup=2, device=device, dtype=cell.dtype, compile=mode
    )


def ratios(timings: dict[str, Timing], mac_ratio: float) -> dict[str, str]:
    """Compute the columns for times and memory."""
    own, base, matrix, masks = (timings.get(way) for way in ("vitrim", "unreduced", "matrix", "masks"))
    assert own is not None and base is not None
    values: dict[str, object] = {"mac_ratio": mac_ratio, "speedup": own.speedup}
    values |= {"speedup_per_mac_ratio": own.speedup / mac_ratio, "latency_ms": own.latency_ms}
    for name, way in (("matrix", matrix), ("masks", masks)):
        if way is not None:
            values[f"over_{name}"] = own.speed_over(way)
    values |= {"peak_memory_mib": own.peak_memory_mb, "memory_of_unreduced": own.peak_memory_mb / base.peak_memory_mb}
    if matrix is not None:
        values |= {
            "matrix_speedup": matrix.speedup.median,
            "memory_of_matrix": own.peak_memory_mb / matrix.peak_memory_mb,
        }
    return written(values) | {"rounds": str(own.rounds)}


def meta_macs(cell: Cell, method: Method | None) -> int:
    """Count the multiply-adds of an image on the meta device."""
    with torch.device("meta"):
        model = timm.create_model(cell.model, img_size=cell.img_size).eval()
    return count_macs(model if method is None else vitrim.reduce_tokens(model, method), input_size(cell))


RATES: dict[tuple[str, str], float] = {}


def macs_per_second(cell: Cell) -> float:
    """Measure the speed of the unreduced model at 224 px, once."""
    key = (cell.model, cell.dtype)
    if key not in RATES:
        model = timm.create_model(cell.model, img_size=224).eval().to(cell.device, DTYPES[cell.dtype])
        timing = benchmark({"it": model}, batch_size=4, rounds=3, device=cell.device, dtype=cell.dtype)["it"]
        RATES[key] = count_macs(model, (3, 224, 224)) * timing.images_per_s
    return RATES[key]


@torch.inference_mode()
def largest_difference(model: nn.Module, references: dict[str, ReferenceMode], cell: Cell, device: str) -> float:
    """Return the largest difference of logits between modes, relative to the largest logit, in fp32 on one image."""
    x_BCHW = torch.randn(1, *input_size(cell), device=device)
    logits = model(x_BCHW)
    return max(
        (float((way(x_BCHW) - logits).abs().max() / logits.abs().max()) for way in references.values()), default=0
    )


EXPERIMENT = Experiment(
    about=ABOUT,
    file="suite_{on}",
    axes={
        "model": ("deit_small_patch16_224",),
        "img_size": (224, 384, 512, 1024),
        "batch": (1, 8, 32, 128),
        "dtype": ("fp32",),
        "compile": ("no",),
        "method": ("EViT 0.7",),
    },
    options={
        "device": "cpu",
        "rounds": 30,
        "min_rounds": 7,
        "cell_minutes": 3.0,
        "memory_gib": 8.0,
        "malloc": "default",
    },
    choices={"method": METHODS, "dtype": DTYPES, "device": ("cpu", "cuda"), "malloc": ("default", "keep")},
    place=place,
    settles=settles,
    prepare=prepare,
    measure=measure,
)
