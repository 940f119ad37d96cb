"""The model of `vitrim anytime`: a checkpoint of a training run, or a saved folder, with what the options set."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from .reduction import RATE, Reduction

if TYPE_CHECKING:
    from torch import nn


def load_with_exits(model: str, checkpoint: Path | None, reduction: Reduction, img_size: int | None) -> nn.Module:
    """The model with its exit heads on, reduced by the method: EViT, or the saved folder's, if none is asked for.

    ValueError for a checkpoint without heads, or settings that do not fit.
    """
    from ..loading.names import is_saved
    from ..loading.trained import load_exits

    if checkpoint is None and is_saved(model):
        return _saved(model, reduction, img_size)
    if checkpoint is None:
        raise ValueError("pass --checkpoint FILE, the weights of a model that was trained with METR.")
    wanted = replace(reduction, methods=reduction.methods or "evit").configuration()
    assert wanted is not None
    return load_exits(model, checkpoint, wanted.make, img_size)


def _saved(model: str, reduction: Reduction, img_size: int | None) -> nn.Module:
    from ..backbones.reader import find_stack
    from ..loading.from_pretrained import load_saved

    rates = reduction.amounts.get(RATE, ())
    if reduction.methods is not None or len(reduction.given) > bool(rates) or len(rates) > 1:
        raise ValueError(f"{model} was saved with its method: leave out --method, and give one --keep-rate at most.")
    net = load_saved(Path(model), exits=True, img_size=img_size)
    found = find_stack(net)
    if found is not None and rates:
        found.stack.set_method(found.stack.method.at_keep_rate(rates[0]))
    return net
