"""Run an experiment, or make the tables:

    python -m benchmarks NAME --help
    python -m benchmarks speed --model deit_tiny_patch16_224 --batch 1 32
    python -m benchmarks gpu       # numbers, speed and kernels on a GPU, in a few minutes
    python -m benchmarks tables

Rows are appended to results/<what>_torch<version>_<date>.csv. Cells that already have a row, of the same versions and
machine, are skipped, so an interrupted run continues. --again measures them again.
"""

from __future__ import annotations

import importlib
import sys

EXPERIMENTS = {
    "speed": "speed-up over the unreduced model, and the MAC ratio",
    "suite": "speed and memory, also relative to research code",
    "league": "what every method and rival loses at equal multiply-adds",
    "league_speed": "speed of every method and rival at equal multiply-adds",
    "packed": "time of batches with different numbers of tokens per image",
    "training_speed": "time of a training update",
    "export": "which method can be exported by which route",
    "export_speed": "speed of exported models",
    "export_stability": "whether an exported model returns the same bits in every run",
    "export_kept": "whether runtimes keep the same tokens as eager",
    "tune_speed": "candidates a minute of a search, against evaluating each",
    "tuned_time": "whether tuning for measured time beats tuning for multiply-adds",
    "imagenette": "accuracy after training",
    "gpu_numbers": "whether a GPU keeps the tokens that the CPU keeps",
    "gpu_speed": "speed and memory on a GPU",
    "gpu_kernels": "the kernels that take the time on a GPU",
}


def main() -> int:
    name, *arguments = sys.argv[1:] or [""]
    if name == "tables":
        from .tables import main as write_tables

        return write_tables(arguments)
    if name == "gpu":
        from .gpu import main as measure_gpu

        return measure_gpu(arguments)
    if name not in EXPERIMENTS:
        print(__doc__, *(f"    {each:18}{about}" for each, about in EXPERIMENTS.items()), sep="\n")
        return 0 if name in ("", "-h", "--help") else 2
    from .experiment import run

    return run(importlib.import_module(f"benchmarks.{name}").EXPERIMENT, arguments)


if __name__ == "__main__":
    sys.exit(main())
