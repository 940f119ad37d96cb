"""Imagenette: do METR, TM and BAT recover the accuracy that EViT loses, if trained?"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import timm
import torch

import vitrim
from vitrim.loading.weights import fit, read_checkpoint

from .experiment import Cell, Experiment
from .rows import Row

ABOUT = """Imagenette: do METR, TM and BAT recover the accuracy that EViT loses, if trained?

Fine-tunes DeiT-Tiny for {EViT, EViT+METR, TM, BAT} x {0.7, 0.5, 0.3} and unreduced, with three seeds each, from the
same start. The rows of the table in docs/training.md come from

    python -m benchmarks imagenette --data imagenette2-128 --start out/base/model
    python -m benchmarks imagenette ... --method metr-lr10 --keep-rate 0.3
    python -m benchmarks imagenette ... --method evit metr --keep-rate 0.3 --epochs 1.36 --output out/imagenette-401

Training runs that are finished in --output are not repeated.
"""
RECIPE = Path(__file__).resolve().parents[1] / "recipes" / "imagenette" / "reduced.py"
METHODS = ("unreduced", "evit", "metr", "metr-lr10", "token_mergence", "beyond_attentive")
LAYERS = (3, 6, 9)  # blocks that reduce
QUALITY_IMAGES = 300  # for the agreement of class attention; overlaps are of the top half


def applies(cell: Cell) -> bool:
    """Whether the cell exists: only the unreduced model has keep rate 1."""
    return (cell.method == "unreduced") == (cell.keep_rate == 1.0)


def place(_: Cell) -> dict[str, object]:
    return {"torch": torch.__version__, "timm": timm.__version__, "vitrim": vitrim.__version__}


def settles(row: Row, cell: Cell) -> bool:
    """Whether the row has as many updates as the finished run."""
    summary = folder_of(cell) / "summary.json"
    return summary.exists() and row["updates"] == str(json.loads(summary.read_text())["updates"])


def folder_of(cell: Cell) -> Path:
    return Path(cell.output) / f"{cell.method}-{cell.keep_rate:g}-seed{cell.seed}"


def prepare(cells: Sequence[Cell]) -> None:
    """Train all cells, several at a time."""
    with ThreadPoolExecutor(cells[0].processes if cells else 1) as pool:
        list(pool.map(train, cells))


def train(cell: Cell) -> None:
    """Train a cell, or continue it, in its own process with one thread."""
    folder = folder_of(cell)
    if (folder / "summary.json").exists():
        return
    options = ["--checkpoint", cell.start, "--seed", str(cell.seed), "--cpu"]
    options += ["--epochs", str(cell.epochs)] if cell.epochs else []
    if cell.method == "unreduced":
        options += ["--method", "none", "--settings", "{}"]
    else:
        if cell.method == "metr-lr10":  # exit heads at ten times the learning rate
            options += ["--method-lr", "10"]
        options += ["--method", cell.method.partition("-")[0], "--settings.keep_rate", str(cell.keep_rate)]
    folder.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "vitrim", "train", RECIPE, "--data", cell.data, "--output", folder, *options]
    began = time.perf_counter()
    done = subprocess.run(
        [str(part) for part in command], env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"{folder.name} failed: {done.stderr[-2000:]}")
    print(f"{folder.name}: {time.perf_counter() - began:.0f} s, {done.stdout.strip().splitlines()[-2]}", flush=True)


def measure(cell: Cell) -> Iterator[dict[str, object]]:
    """Yield the summary of a finished run, and the agreement of early class attention with the last block."""
    folder = folder_of(cell)
    summary = json.loads((folder / "summary.json").read_text())
    recipe = summary["recipe"]
    model = vitrim.build_model(recipe["model"], img_size=recipe["img_size"], num_classes=summary["num_classes"])
    weights = sorted((folder / "checkpoints").glob("step-*"))[-1] / "model.safetensors"
    fit(model, read_checkpoint(weights), recipe["model"], weights, keep="model")
    batches = vitrim.load_images(model, Path(cell.data) / "val", limit=QUALITY_IMAGES, batch_size=50)
    quality = {row.layer: row for row in vitrim.cls_quality(model, batches)}
    row: dict[str, object] = {name: str(summary[name]) for name in ("top1", "val_images")}
    if recipe["method"] is not None:
        vitrim.reduce_tokens(model, recipe["method"], **recipe["settings"])
    row["gmacs"] = f"{vitrim.count_macs(model) / 1e9:.4f}"
    row |= {name: str(summary[name]) for name in ("updates", "seconds")}
    row |= {name: recipe[name] for name in ("batch_size", "img_size")}
    for layer in LAYERS:
        row[f"rank_correlation_{layer}"] = f"{quality[layer].rank_correlation:.4f}"
        row[f"overlap_{layer}"] = f"{quality[layer].overlaps[1]:.4f}"
    yield row


EXPERIMENT = Experiment(
    about=ABOUT,
    file="imagenette_deit_tiny_fp32",
    axes={
        "seed": (0, 1, 2),
        "keep_rate": (1.0, 0.3, 0.5, 0.7),
        "method": tuple(name for name in METHODS if name != "metr-lr10"),
    },
    options={
        "data": "imagenette2-128",
        "start": "out/base/model",
        "output": "out/imagenette",
        "epochs": 0.0,
        "processes": 2,
    },
    choices={"method": METHODS},
    applies=applies,
    place=place,
    settles=settles,
    prepare=prepare,
    measure=measure,
)
