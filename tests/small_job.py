"""A comparison small enough for tests: timm's test_vit with random weights, and images of noise."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from vitrim.compare.configuration import configurations
from vitrim.compare.job import Job

MODEL = "test_vit"  # 6 blocks, 64 channels, 1,000 classes
IMG_SIZE = 64  # 4 x 4 patches


def save_checkpoint(path: Path, model: str = MODEL, **settings: Any) -> Path:
    """Random weights of a timm model, always the same."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        save_file(timm.create_model(model, **settings).state_dict(), path)
    return path


def save_images(folder: Path, count: int = 6) -> Path:
    """Images of noise with a labels.csv, all of different classes."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    with (folder / "labels.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(("file", "label"))
        for i in range(count):
            pixels = rng.integers(0, 256, (70, 80, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{i}.png")
            table.writerow((f"{i}.png", i))
    return folder


def small_job(
    folder: Path, methods: Sequence[str] = ("evit",), keep_rates: Sequence[float] = (0.5,), **changes: Any
) -> Job:
    """A job on inputs inside the folder, which are made if missing; its output is the sub-folder out."""
    checkpoint, data = folder / "weights.safetensors", folder / "images"
    if not checkpoint.exists():
        save_checkpoint(checkpoint)
        save_images(data)
    settings: dict[str, Any] = {
        "model": MODEL,
        "data": data,
        "output": folder / "out",
        "configurations": configurations(methods, keep_rates),
        "checkpoint": checkpoint,
        "img_size": IMG_SIZE,
        "batch_size": 4,
        "rounds": 2,
        "command": "vitrim compare",
    }
    return Job(**(settings | changes))


def arguments(job: Job) -> list[str]:
    """The command line of a small job with EViT at keep rate 0.5; later options replace earlier ones."""
    return [
        "compare",
        *("--model", job.model, "--checkpoint", str(job.checkpoint), "--data", str(job.data)),
        *("--output", str(job.output), "--img-size", str(job.img_size)),
        *("--batch-size", str(job.batch_size), "--rounds", str(job.rounds)),
        *("--methods", "evit", "--keep-rates", "0.5"),
    ]
