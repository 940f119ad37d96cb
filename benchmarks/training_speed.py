"""Training speed of each method: time of an update, relative to the unreduced model and to its MAC ratio."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import timm
import torch

import vitrim
from vitrim.measure.folder import num_classes_of
from vitrim.measure.turns import take_turns
from vitrim.train.task import ClassificationTask

from .experiment import Cell, Experiment
from .methods import LEARNED, METHODS

ABOUT = """Training speed of each method: time of an update, relative to the unreduced model and to its MAC ratio.

An update is forward, losses, backward and AdamW, in fp32, on random images. For METR it includes heads and losses. All
models take turns in every round of one process. The MAC ratio is that of a forward without exit heads.
"""
MEASURED = METHODS | LEARNED


def measure(cell: Cell) -> Iterator[dict[str, object]]:
    base, size = timm.create_model(cell.model, img_size=cell.img_size), (3, cell.img_size, cell.img_size)
    models = {name: vitrim.reduce_tokens(copy.deepcopy(base), MEASURED[name]) for name in cell.method}
    models = {"unreduced": base, **models}
    macs = {name: vitrim.count_macs(model, size) for name, model in models.items()}
    x_BCHW = torch.randn(cell.batch, *size)
    labels_B = torch.randint(0, num_classes_of(base), (cell.batch,))
    turns = take_turns({name: update_of(model, x_BCHW, labels_B) for name, model in models.items()}, cell.rounds)
    for name in models:
        speedup, mac_ratio = turns.ratio(name, over="unreduced"), macs["unreduced"] / macs[name]
        yield {
            "method": name,
            "gmacs": f"{macs[name] / 1e9:.4f}",
            "mac_ratio": mac_ratio,
            "speedup": speedup,
            "speedup_per_mac_ratio": speedup / mac_ratio,
            "rounds": cell.rounds,
        }


def update_of(model: torch.nn.Module, x_BCHW: torch.Tensor, labels_B: torch.Tensor) -> Callable[[], None]:
    """Return a function that runs one training update."""
    task = ClassificationTask(model.train())
    optimizer = torch.optim.AdamW(model.parameters(), 1e-5, fused=True)

    def update() -> None:
        task(x_BCHW, labels_B).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return update


EXPERIMENT = Experiment(
    about=ABOUT,
    file="training_speed_{on}_fp32",
    axes={"model": ("deit_tiny_patch16_224",), "img_size": (224,), "batch": (32,)},
    together={"method": ("EViT 0.7", "EViT 0.5", "METR over EViT 0.7", "TM 0.7", "BAT 0.7")},
    options={"rounds": 25},
    choices={"method": MEASURED},
    measure=measure,
)
