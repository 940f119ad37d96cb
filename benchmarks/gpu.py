"""Numbers, speed and kernels on a GPU: one command that ends within its minutes, and goes on when it is run again."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from . import gpu_kernels, gpu_numbers, gpu_speed
from .experiment import run
from .rows import RESULTS

ABOUT = """Numbers, speed and kernels on a GPU.

First gpu_numbers (CPU against GPU), then gpu_speed from the most wanted cells on, then gpu_kernels of the worst cell.
It needs torch, timm and this working tree, but no network. Rows are appended to results/. What cannot be measured gets
a row that says why. The next run measures what is missing.

    PYTHONPATH=src python -m benchmarks gpu
    PYTHONPATH=src python -m benchmarks gpu --device cpu --small    # tries all parts without a GPU
"""
NUMBERS, KERNELS = 0.25, 0.1  # shares of the minutes
SMALL_NUMBERS = ["--dtype", "fp32", "bf16", "--method", "unreduced", "evit", "tome", "--images", "4"]
SMALL_SPEED = ["--model", "test_vit", "--img-size", "160", "--batch", "32", "--dtype", "fp32", "--mode", "eager"]
SMALL_SPEED += ["--method", "evit", "tome", gpu_speed.OFFICIAL_TOME, "--rounds", "2"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the three parts. Returns 1 if outputs in fp32 differ from the CPU's, else 0."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks gpu", description=ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--minutes", type=float, default=8.5, help="no cell is begun later")
    parser.add_argument("--small", action="store_true", help="a few cells of a tiny model")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    start, common = time.monotonic(), ["--device", options.device, "--results", str(options.results)]

    def within(share: float) -> list[str]:
        spent = (time.monotonic() - start) / 60
        return [*common, "--minutes", f"{max(0.01, share * options.minutes - spent):.2f}"]

    failed = run(gpu_numbers.EXPERIMENT, within(NUMBERS) + SMALL_NUMBERS * options.small)
    run(gpu_speed.EXPERIMENT, within(1 - KERNELS) + SMALL_SPEED * options.small)
    cell = gpu_kernels.worst_cell(options.results, options.device)
    if cell is not None:
        run(gpu_kernels.EXPERIMENT, gpu_kernels.arguments(cell, options))
    return failed
