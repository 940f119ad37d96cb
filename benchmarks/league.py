"""The league table: what every method and rival loses off the shelf, at equal multiply-adds."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import timm
import torch
from torch import Tensor, nn

import vitrim
from vitrim.measure.batches import ImageBatches
from vitrim.measure.forwards import over_batches
from vitrim.measure.model_input import input_size_of
from vitrim.measure.paired import PairedLoss
from vitrim.tuning.answers import Answers

from .contenders import applies, base_model, column_values, load_plugin, make, names
from .experiment import Cell, Experiment

ABOUT = """What every method and rival loses off the shelf, at equal multiply-adds.

    python -m benchmarks league --data imagenet/val --limit 1300 --checkpoint deit_tiny.safetensors

A method of your own gets its row by its name, and a file that registers it (or an entry point, without a file):

    python -m benchmarks league ... --plugin mine.py --method mine
    python -m benchmarks league_speed --plugin mine.py --method mine

Target 1 is for the unreduced model and the rivals that have no ratio.
"""
ANSWERS = Answers(classes=True)
OPTIONS = {"checkpoint": "", "plugin": ""}


def measure(cell: Cell) -> Iterator[dict[str, object]]:
    load_plugin(cell.plugin)
    base = base_model(cell.model, cell.checkpoint)
    made = make(base, cell.method, cell.target)
    row = {**column_values(made, vitrim.count_macs(base)), **dict.fromkeys(EMPTY)}
    if made.model is not None:
        before, after = unreduced_answers(cell), _answers(cell, made.model)
        labels_I = torch.tensor(_images(cell).images.labels)
        pair = PairedLoss.of(before.argmax(dim=1) == labels_I, after.argmax(dim=1) == labels_I)
        low, high = pair.interval
        row |= {
            "top1": 100 * (pair.both + pair.won) / pair.num_images,
            "lost_points": pair.points,
            "interval_low": low,
            "interval_high": high,
            "images_lost": pair.lost,
            "images_won": pair.won,
            "divergence": f"{ANSWERS.divergence(before, after).mean():.5f}",
            "num_images": pair.num_images,
        }
    yield row


EMPTY = (
    *("top1", "lost_points", "interval_low", "interval_high"),
    *("images_lost", "images_won", "divergence", "num_images"),
)


def unreduced_answers(cell: Cell) -> Tensor:
    """Log-probabilities of the unreduced model, computed once."""
    return _unreduced(cell.model, cell.checkpoint, cell.data, cell.limit)


@cache
def _unreduced(model: str, checkpoint: str, data: str, limit: int) -> Tensor:
    base = base_model(model, checkpoint)
    return _run(base, _decoded(model, checkpoint, data, limit))


def _images(cell: Cell) -> ImageBatches:
    return _decoded(cell.model, cell.checkpoint, cell.data, cell.limit)


@cache
def _decoded(model: str, checkpoint: str, data: str, limit: int) -> ImageBatches:
    """The images at the model's own size, kept in memory."""
    return vitrim.load_images(base_model(model, checkpoint), data, labels=True, limit=limit)


def _answers(cell: Cell, model: nn.Module) -> Tensor:
    base = base_model(cell.model, cell.checkpoint)
    if input_size_of(model) == input_size_of(base):
        return _run(model, _images(cell))
    return _run(model, vitrim.load_images(model, cell.data, labels=True, limit=cell.limit, max_bytes=0))


def _run(model: nn.Module, batches: Any) -> Tensor:
    def step(x_BCHW: Tensor, _: Tensor) -> Tensor:
        return ANSWERS.read(model(x_BCHW))

    return torch.cat(over_batches(model, batches, step).found)


def place(_: Cell) -> dict[str, object]:
    return {"torch": torch.__version__, "timm": timm.__version__, "vitrim": vitrim.__version__}


EXPERIMENT = Experiment(
    about=ABOUT,
    file="league_accuracy_{model}",
    axes={
        "model": ("deit_tiny_patch16_224",),
        "dtype": ("fp32",),
        "target": (1.0, 1.25, 1.5, 2.0),
        "method": names(),
    },
    options={"data": "imagenet/val", "limit": 1300, **OPTIONS},
    choices={"dtype": ("fp32",)},
    applies=lambda cell: applies(cell.method, cell.target),
    place=place,
    measure=measure,
)
