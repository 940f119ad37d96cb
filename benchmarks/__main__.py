"""Run an experiment, or make the tables of its rows:

    python -m benchmarks NAME --help
    python -m benchmarks speed --model deit_tiny_patch16_224 --batch 1 32
    python -m benchmarks tables

Rows are appended to results/<what>_torch<version>_<date>.csv. What has a row there by the same versions on the same
machine is not measured again, so a run that was interrupted goes on; --again measures it anew.
"""

from __future__ import annotations

import importlib
import sys

EXPERIMENTS = {
    "speed": "speed-up over the unreduced model, beside the MAC ratio",
    "suite": "speed and memory, also against the way in which research code works",
    "packed": "time of batches whose images keep different numbers of tokens",
    "training_speed": "time of a training update",
    "export": "which method goes through which route of export",
    "export_speed": "speed of exported models",
    "export_stability": "whether an artefact gives the same bits in every run",
    "export_kept": "whether runtimes keep the same tokens as eager",
    "imagenette": "accuracy after training",
}


def main() -> int:
    name, *arguments = sys.argv[1:] or [""]
    if name == "tables":
        from .tables import main as write_tables

        return write_tables(arguments)
    if name not in EXPERIMENTS:
        print(__doc__, *(f"    {each:18}{about}" for each, about in EXPERIMENTS.items()), sep="\n")
        return 0 if name in ("", "-h", "--help") else 2
    from .experiment import run

    return run(importlib.import_module(f"benchmarks.{name}").EXPERIMENT, arguments)


if __name__ == "__main__":
    sys.exit(main())
