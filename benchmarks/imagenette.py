"""The imagenette experiment: do METR, TM and BAT win back what EViT loses when trained with it?

Fine-tunes DeiT-Tiny in every cell of {EViT, EViT+METR, TM, BAT} x {0.7, 0.5, 0.3} and unreduced, three seeds each, from
one common start, and writes a row per run to results/. A run that is finished is not run again, so this can be stopped
at any time. `python benchmarks/tables.py` makes the table of docs/training.md of the rows; they come from

    python benchmarks/imagenette.py --data imagenette2-128 --start out/base/model --output out/imagenette
    python benchmarks/imagenette.py ... --methods metr-lr10 --keep-rates 0.3
    python benchmarks/imagenette.py ... --methods evit metr --keep-rates 0.3 --epochs 1.36 --output out/imagenette-401
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import timm
import torch

import vitrim
from rows import append
from vitrim.loading.build import read_checkpoint

RECIPE = Path(__file__).resolve().parents[1] / "recipes" / "imagenette" / "reduced.py"
METHODS = ("unreduced", "evit", "metr", "metr-lr10", "token_mergence", "beyond_attentive")
RATES = (0.3, 0.5, 0.7)
LAYERS = (3, 6, 9)  # blocks that reduce
QUALITY_IMAGES = 300  # for the agreement of class attention; overlaps are of the top half


class Cell(NamedTuple):
    """One run."""

    method: str
    keep_rate: float
    seed: int

    @property
    def name(self) -> str:
        return f"{self.method}-{self.keep_rate:g}-seed{self.seed}"


def cells(args: argparse.Namespace) -> list[Cell]:
    """All runs, seed by seed."""
    found = []
    for seed in range(args.seeds):
        found += [Cell("unreduced", 1.0, seed)] if "unreduced" in args.methods else []
        methods = [method for method in args.methods if method != "unreduced"]
        found += [Cell(method, rate, seed) for rate, method in itertools.product(args.keep_rates, methods)]
    return found


def train(cell: Cell, args: argparse.Namespace) -> None:
    """Run, or finish, one cell in a process of its own with one thread."""
    folder = args.output / cell.name
    if (folder / "summary.json").exists():
        return
    options = ["--checkpoint", args.start, "--seed", str(cell.seed), "--cpu"]
    options += [] if args.epochs is None else ["--epochs", str(args.epochs)]
    if cell.method == "unreduced":
        options += ["--method", "none", "--settings", "{}"]
    else:
        if cell.method == "metr-lr10":  # exit heads at ten times the learning rate
            options += ["--method-lr", "10"]
        options += ["--method", cell.method.partition("-")[0], "--settings.keep_rate", str(cell.keep_rate)]
    command = [sys.executable, "-m", "vitrim", "train", RECIPE, "--data", args.data, "--output", folder, *options]
    began = time.perf_counter()
    done = subprocess.run(
        [str(part) for part in command], env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"{cell.name} failed: {done.stderr[-2000:]}")
    print(f"{cell.name}: {time.perf_counter() - began:.0f} s, {done.stdout.strip().splitlines()[-2]}", flush=True)


def measure(cell: Cell, args: argparse.Namespace, batches: object) -> dict[str, object]:
    """One row: the summary of a finished run, and how early class attention agrees with the last block's."""
    folder = args.output / cell.name
    summary = json.loads((folder / "summary.json").read_text())
    recipe = summary["recipe"]
    model = vitrim.build_model(recipe["model"], img_size=recipe["img_size"], num_classes=summary["num_classes"])
    weights = read_checkpoint(sorted((folder / "checkpoints").glob("step-*"))[-1] / "model.safetensors")
    model.load_state_dict({name: value for name, value in weights.items() if ".method." not in name})
    quality = {row.layer: row for row in vitrim.cls_quality(model, batches)}
    row: dict[str, object] = {**cell._asdict(), **{name: summary[name] for name in ("top1", "val_images")}}
    if recipe["method"] is not None:
        vitrim.reduce_tokens(model, recipe["method"], **recipe["settings"])
    row["gmacs"] = f"{vitrim.count_macs(model) / 1e9:.4f}"
    row |= {name: summary[name] for name in ("updates", "seconds")}
    row |= {name: recipe[name] for name in ("batch_size", "img_size")}
    for layer in LAYERS:
        row[f"rank_correlation_{layer}"] = f"{quality[layer].rank_correlation:.4f}"
        row[f"overlap_{layer}"] = f"{quality[layer].overlaps[1]:.4f}"
    return row | {"torch": torch.__version__, "timm": timm.__version__, "vitrim": vitrim.__version__}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--start", required=True, help="folder or file of the common start")
    parser.add_argument("--output", type=Path, default=Path("out/imagenette"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--methods", nargs="+", choices=METHODS, default=[name for name in METHODS if name != "metr-lr10"]
    )
    parser.add_argument("--keep-rates", nargs="+", type=float, default=RATES)
    parser.add_argument("--epochs", type=float, help="instead of the recipe's, with an output folder of its own")
    parser.add_argument("--processes", type=int, default=2)
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(args.processes) as pool:
        list(pool.map(lambda cell: train(cell, args), cells(args)))
    model = vitrim.build_model("deit_tiny_patch16_224", img_size=96, num_classes=10)
    batches = vitrim.load_images(model, Path(args.data) / "val", limit=QUALITY_IMAGES, batch_size=50)
    append("imagenette_deit_tiny_fp32", [measure(cell, args, batches) for cell in cells(args)])


if __name__ == "__main__":
    main()
