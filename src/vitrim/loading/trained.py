"""Load checkpoints of training runs, which have their own number of classes and weights that a method learned."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from torch import nn

from ..api import reduce_tokens
from ..core.block_view import WEIGHTS
from ..core.exits import TRAINING_ONLY, Exits
from ..core.method import Method
from .build import build_for, load_model, load_trained
from .positions import adapting
from .weights import fit, read_checkpoint


def load_exits(model: str, checkpoint: Path, method: Callable[[nn.Module], Method], img_size: int | None) -> nn.Module:
    """Load a model with the exit heads of a checkpoint, reduced by `method(model)`; ValueError if there are none."""
    state = read_checkpoint(checkpoint)
    exits = exits_in(state)
    if not exits:
        raise ValueError(f"{checkpoint} has no exit heads (keys blocks.N.method.exit.*): train the model with METR.")
    net = build_for(model, state, img_size)
    reduce_tokens(net, replace(method(net), exits=Exits(layers=exits)))
    fit(net, state, model, checkpoint, adapt=adapting(img_size))
    return net


def load_without_method(model: str, checkpoint: Path | None, img_size: int | None) -> nn.Module:
    """Load a model with all its tokens. Weights that a method learned are skipped."""
    if checkpoint is None:
        return load_model(model, img_size=img_size)
    return load_trained(model, checkpoint, img_size, keep="model")


def exits_in(state: Mapping[str, object]) -> tuple[int, ...]:
    """The blocks, 0-based, that have an exit head in these weights."""
    found = (re.search(rf"(\d+)\.{WEIGHTS}\.{TRAINING_ONLY}\.", key) for key in state)
    return tuple(sorted({int(match[1]) for match in found if match}))
