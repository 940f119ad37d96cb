"""A training run small enough for tests: timm's test_vit at 32 or 64 pixels, a few generated images of two classes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vitrim.train.recipe import Recipe

FIELDS: dict[str, Any] = {
    "model": "test_vit",  # 6 blocks, 64 channels, patches of 16 pixels
    "img_size": 32,
    "epochs": 2,
    "batch_size": 8,
    "lr": 1e-3,
    "lr_batch": None,
    "workers": 0,
    "log_every": 1,
    "checkpoint_every": 1000,
    "tensorboard": False,
}
# Everything that draws random numbers or keeps a state of its own.
EVERYTHING: dict[str, Any] = FIELDS | {
    "img_size": 64,
    "method": "metr",
    "settings": {"keep_rate": 0.5},
    "epochs": 5,  # of 3 updates: the 5th and the 10th are in the middle of one
    "accumulate": 2,
    "keep_rate_start": 1,
    "keep_rate_epochs": 3,
    "warmup_epochs": 1,
    "mixup": 0.8,
    "cutmix": 1.0,
    "drop_path": 0.2,
    "dropout": 0.1,
    "ema_decay": 0.9,
    "clip_grad": 1.0,
    "color_jitter": 0.3,
    "auto_augment": "rand-m9-mstd0.5-inc1",
    "erasing": 0.25,
    "label_smoothing": 0.1,
    "checkpoint_every": 5,
    "checkpoints_kept": 10,
}
CLASSES = ("bird", "cat")


def recipe(**changes: Any) -> Recipe:
    """A recipe that takes a second or two."""
    return Recipe(**(FIELDS | changes))


def make_images(folder: Path, train: int = 12, val: int = 3, classes: tuple[str, ...] = CLASSES) -> Path:
    """train and val with so many PNG files per class: noise, in a colour of the class."""
    rng = np.random.default_rng(0)
    for split, count in (("train", train), ("val", val)):
        for label, name in enumerate(classes):
            place = folder / split / name
            place.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 150, (36, 40, 3), dtype=np.uint8)
                pixels[..., label % 3] += 60
                Image.fromarray(pixels).save(place / f"{i:02d}.png")
    return folder


def lines(output: Path) -> list[dict[str, Any]]:
    """What a run logged, without what depends on the clock."""
    found = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [
        {key: value for key, value in line.items() if key not in ("images_per_s", "seconds_left")} for line in found
    ]


def losses(output: Path) -> list[float]:
    """The losses of a run, one per line of its log."""
    return [line["loss"] for line in lines(output)]
