"""Speed and memory of each method against the unreduced model, and against the way in which research code works.

    python benchmarks/suite.py                       # EViT on DeiT-S, 224 to 1024 px, batch 1 to 128
    python benchmarks/suite.py --methods "ToMe r=13" "TM 0.7" --img-sizes 224 --batch-sizes 1 32 --dtypes fp32 bf16
    python benchmarks/suite.py --device cuda --compile reduce-overhead --dtypes fp16 bf16

Weights are random: speed does not depend on them. In each cell, the unreduced model, the method, and its reference
modes (reference_modes.py: the full attention matrix, and masks in place of removal) take turns in one process, on the
same weights, once it is seen that their logits are equal. Ratios are taken within a round: medians, 10th and 90th
percentiles. A cell, or a way in it, that would take more time or memory than allowed is a row that says so. Rows are
appended to results/suite_<device>_torch<version>_<date>.csv, and a cell that has one there is not measured again.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from folded_sizes import fold_sizes
from reference_modes import MaskedEViT, ReferenceMode, reference_modes
from speed import METHODS
from torch import nn

import vitrim
from rows import RESULTS, append, cpu_name, written
from vitrim.core.method import Method
from vitrim.measure.benchmark import DTYPES, Timing, benchmark, twin
from vitrim.measure.macs import count_macs

EQUAL = 1e-3  # of the largest logit: equal up to rounding, and to patches whose scores are equal up to rounding
GIB = 2**30
# What glibc must not do between two forwards: give memory back, only to fault it in again page by page.
KEEP = {"MALLOC_MMAP_THRESHOLD_": str(4 * GIB), "MALLOC_TRIM_THRESHOLD_": str(16 * GIB)}
COUNTS = ("mac_ratio", "speedup", "speedup_p10", "speedup_p90", "speedup_per_mac_ratio")
OVER = ("over_matrix", "over_matrix_p10", "over_matrix_p90", "over_masks", "over_masks_p10", "over_masks_p90")
MEMORY = ("peak_memory_mib", "memory_of_unreduced", "memory_of_matrix")
MEASURED = ("gmacs", *COUNTS, "latency_ms", *OVER, "matrix_speedup", *MEMORY, "difference", "rounds")


@dataclass(frozen=True)
class Cell:
    """What is measured together; the first columns of its row."""

    model: str
    img_size: int
    batch: int
    dtype: str
    compile: str  # 'no', or the mode of torch.compile
    method: str
    sizes: str  # 'mask' or 'folded': how ToMe's sizes enter the attention

    @property
    def input_size(self) -> tuple[int, int, int]:
        return (3, self.img_size, self.img_size)


def main() -> None:
    options = parse()
    if options.malloc == "keep" and os.environ.get("MALLOC_TRIM_THRESHOLD_") != KEEP["MALLOC_TRIM_THRESHOLD_"]:
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | KEEP)
    torch.set_num_threads(options.threads)
    here = {
        "threads": options.threads,
        "device": torch.cuda.get_device_name() if options.device == "cuda" else options.device,
        "malloc": options.malloc,
        "torch": torch.__version__,
        "timm": timm.__version__,
        "cpu": cpu_name(),
    }
    place = options.device if options.device == "cuda" else f"cpu{options.threads}"
    done = () if options.again else rows_there(options.results, f"suite_{place}", here)
    axes = (options.models, options.img_sizes, options.batch_sizes, options.dtypes, options.compile, options.methods)
    for values in itertools.product(*axes, options.sizes):
        cell = Cell(*values)
        if cell.sizes == "folded" and type(METHODS[cell.method]) is not vitrim.ToMe:
            continue
        if any(settled(row, cell, options) for row in done):
            continue
        row = dict.fromkeys(("skipped", *MEASURED), "") | measure(cell, options)
        print(*vars(cell).values(), *(f"{key}={value}" for key, value in row.items() if value != ""), flush=True)
        allowed = {"cell_minutes": options.cell_minutes, "memory_gib": options.memory_gib}
        append(f"suite_{place}", [vars(cell) | row | here | allowed], options.results)


def settled(row: dict[str, str], cell: Cell, options: argparse.Namespace) -> bool:
    """Whether this earlier row is of this cell, and as full as these options could make it."""
    if any(row[key] != str(value) for key, value in vars(cell).items()):
        return False
    minutes, memory = float(row["cell_minutes"]), float(row["memory_gib"])
    return row["skipped"] == "" or (minutes >= options.cell_minutes and memory >= options.memory_gib)


def rows_there(folder: Path, what: str, here: dict[str, Any]) -> list[dict[str, str]]:
    """Rows of earlier runs with the same versions on the same machine."""
    rows = []
    for path in sorted(folder.glob(f"{what}_*.csv")):
        with path.open(newline="") as file:
            rows += [row for row in csv.DictReader(file) if all(row[key] == str(here[key]) for key in here)]
    return rows


def measure(cell: Cell, options: argparse.Namespace) -> dict[str, str]:
    """The measured part of a cell's row, 'skipped' included."""
    method = METHODS[cell.method]
    macs, reduced_macs = (meta_macs(cell, acting) for acting in (None, method))
    budget = Budget(options, cell.batch / macs_per_second(cell, options))
    rounds = budget.rounds(macs + reduced_macs)
    if rounds < options.min_rounds:
        return {"skipped": f"{cell.batch * macs / 1e9:.0f} GMACs a batch, {budget.why(macs + reduced_macs)}"}
    try:
        base = timm.create_model(cell.model, img_size=cell.img_size).eval().to(options.device)
        model = reduced(base, method, cell)
        references = reference_modes(base, method)
        work = macs + reduced_macs + extra_work(references, macs, reduced_macs)
        skipped = too_large(cell, base, options)
        if not skipped and budget.rounds(work) < options.min_rounds:
            skipped = budget.why(work)
        if references and not skipped:
            rounds = budget.rounds(work)
        else:
            skipped, references = f"reference modes: {skipped}" if references else "", {}
        difference = largest_difference(model, references, cell, options.device)
        if difference > EQUAL:
            return {"skipped": f"outputs of the reference mode differ by {difference:.1e}"}
        timings = time_ways({"unreduced": base, "vitrim": model, **references}, cell, rounds, options.device)
    except torch.OutOfMemoryError as error:
        return {"skipped": f"out of memory: {str(error).splitlines()[0]}"}
    numbers = {"skipped": skipped, "gmacs": f"{reduced_macs / 1e9:.4f}"}
    return numbers | ratios(timings, macs / reduced_macs) | {"difference": f"{difference:.1e}" if references else ""}


@dataclass(frozen=True)
class Budget:
    """How many rounds the minutes of a cell allow."""

    options: argparse.Namespace
    seconds_per_mac: float  # of one image's multiply-adds, for a batch

    def rounds(self, macs: float) -> int:
        """Rounds of that many multiply-adds an image, all ways together, when another three are not counted."""
        return min(self.options.rounds, int(60 * self.options.cell_minutes / (macs * self.seconds_per_mac)) - 3)

    def why(self, macs: float) -> str:
        """That even the fewest rounds take too long."""
        minutes = (self.options.min_rounds + 3) * macs * self.seconds_per_mac / 60
        fewest, allowed = self.options.min_rounds, self.options.cell_minutes
        return f"about {minutes:.2g} minutes for {fewest} rounds, of {allowed:g} allowed"


def too_large(cell: Cell, base: Any, options: argparse.Namespace) -> str:
    """Why the attention matrix cannot be formed; empty if it can."""
    tokens = base.patch_embed.num_patches + 1
    size = 2 * cell.batch * base.blocks[0].attn.num_heads * tokens**2 * DTYPES[cell.dtype].itemsize / GIB
    if size <= options.memory_gib:
        return ""
    return f"{size:.1f} GiB for logits and softmax, of {options.memory_gib:g} allowed"


def extra_work(references: dict[str, ReferenceMode], macs: int, reduced_macs: int) -> int:
    """Multiply-adds that would take as long: masks save none, and passes over the matrix double the time, roughly."""
    return sum(2 * (macs if type(way) is MaskedEViT else reduced_macs) for way in references.values())


def time_ways(ways: dict[str, nn.Module], cell: Cell, rounds: int, device: str) -> dict[str, Timing]:
    """All ways of a cell in turns."""
    mode = {"no": False, "default": True}.get(cell.compile, cell.compile)
    size, batch = cell.input_size, cell.batch
    return benchmark(
        ways, size, batch_size=batch, rounds=rounds, warmup=2, device=device, dtype=cell.dtype, compile=mode
    )


def ratios(timings: dict[str, Timing], mac_ratio: float) -> dict[str, str]:
    """What the row says of the times and the memory."""
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


def reduced(base: nn.Module, method: Method, cell: Cell) -> nn.Module:
    """A reduced twin."""
    model = vitrim.reduce_tokens(twin(base), method)
    return fold_sizes(model) if cell.sizes == "folded" else model


def meta_macs(cell: Cell, method: Method | None) -> int:
    """Multiply-adds of one image, counted without computing anything."""
    with torch.device("meta"):
        model = timm.create_model(cell.model, img_size=cell.img_size).eval()
    return count_macs(model if method is None else vitrim.reduce_tokens(model, method), cell.input_size)


RATES: dict[tuple[str, str], float] = {}


def macs_per_second(cell: Cell, options: argparse.Namespace) -> float:
    """Of the unreduced model at 224 px; measured once."""
    key = (cell.model, cell.dtype)
    if key not in RATES:
        model = timm.create_model(cell.model, img_size=224).eval().to(options.device, DTYPES[cell.dtype])
        timing = benchmark({"it": model}, batch_size=4, rounds=3, device=options.device, dtype=cell.dtype)["it"]
        RATES[key] = count_macs(model, (3, 224, 224)) * timing.images_per_s
    return RATES[key]


@torch.inference_mode()
def largest_difference(model: nn.Module, references: dict[str, ReferenceMode], cell: Cell, device: str) -> float:
    """Between the logits of the ways in fp32, relative to the largest logit, on one image."""
    x_BCHW = torch.randn(1, *cell.input_size, device=device)
    logits = model(x_BCHW)
    return max(
        (float((way(x_BCHW) - logits).abs().max() / logits.abs().max()) for way in references.values()), default=0
    )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["deit_small_patch16_224"])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=["EViT 0.7"])
    parser.add_argument("--img-sizes", nargs="+", type=int, default=[224, 384, 512, 1024])
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[1, 8, 32, 128])
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=["fp32"])
    parser.add_argument("--compile", nargs="+", default=["no"], help="no, default, or another mode of torch.compile")
    parser.add_argument("--sizes", nargs="+", choices=("mask", "folded"), default=["mask"], help="ToMe's, in attention")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--min-rounds", type=int, default=7, help="a cell with time for fewer is skipped")
    parser.add_argument("--cell-minutes", type=float, default=3.0)
    parser.add_argument("--memory-gib", type=float, default=8.0, help="for the attention matrices of the matrix way")
    parser.add_argument("--malloc", choices=("default", "keep"), default="default", help="keep: freed memory is kept")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--again", action="store_true", help="measure cells that have a row too")
    parser.add_argument("--results", type=Path, default=RESULTS)
    return parser.parse_args()


if __name__ == "__main__":
    began = time.monotonic()
    main()
    print(f"{(time.monotonic() - began) / 60:.1f} minutes")
