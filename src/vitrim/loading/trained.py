"""Checkpoints as a training run leaves them: their own number of classes, and weights that a method learned."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from ..api import reduce_tokens
from ..core.method import Method
from ..core.stack import TRAINING_ONLY, WEIGHTS
from ..methods import METR
from .build import adapt_state, build_for, load_model, resample_positions
from .folder import is_learned
from .weights import fill, read_checkpoint


def load_exits(model: str, checkpoint: Path, method: Method, img_size: int | None) -> nn.Module:
    """The model with the exit heads of the checkpoint, reduced by METR over the method; ValueError without heads."""
    state = read_checkpoint(checkpoint)
    exits = exits_in(state)
    if not exits:
        raise ValueError(f"{checkpoint} has no exit heads (keys blocks.N.method.exit.*): train the model with METR.")
    net = build_for(model, state, img_size)
    reduce_tokens(net, METR(method=method, exits=exits))
    return _fill(net, state, model, checkpoint, img_size)


def load_without_method(model: str, checkpoint: Path | None, img_size: int | None) -> nn.Module:
    """The model with all its tokens; what the checkpoint holds of a method is left out."""
    if checkpoint is None:
        return load_model(model, img_size=img_size)
    state = {key: value for key, value in read_checkpoint(checkpoint).items() if not is_learned(key)}
    return _fill(build_for(model, state, img_size), state, model, checkpoint, img_size)


def exits_in(state: Mapping[str, object]) -> tuple[int, ...]:
    """The blocks, 0-based, whose exit heads are among the weights."""
    found = (re.search(rf"\.(\d+)\.{WEIGHTS}\.{TRAINING_ONLY}\.", key) for key in state)
    return tuple(sorted({int(match[1]) for match in found if match}))


def _fill(net: nn.Module, state: dict[str, Tensor], model: str, checkpoint: Path, img_size: int | None) -> nn.Module:
    state = adapt_state(net, state) if img_size is None else resample_positions(net, state)
    fill(net, state, model, checkpoint)
    return net
