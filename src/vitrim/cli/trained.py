"""Checkpoints as a training run leaves them: their own number of classes, and weights that a method learned."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ..core.method import Method


def load_with_exits(
    model: str, checkpoint: Path | None, method: str | None, settings: Mapping[str, Any], img_size: int | None
) -> nn.Module:
    """The model with its exit heads on, reduced by METR over the method: EViT, or the saved folder's, if None.

    ValueError for a checkpoint without heads, or settings that do not fit.
    """
    from ..api import reduce_tokens
    from ..backbones.reader import find_stack
    from ..load import build_for, is_saved
    from ..methods import METR
    from ..weight_files import read_checkpoint

    if checkpoint is None and is_saved(model):
        if method is not None or settings.keys() - {"keep_rate"}:
            raise ValueError(f"{model} was saved with its method: leave out --method, --mass, --layers and --scorer.")
        from ..pretrained.read import load_saved

        net = load_saved(Path(model), exits=True, img_size=img_size)
        found = find_stack(net)
        if found is not None and "keep_rate" in settings:
            found.stack.act(found.stack.method.at_keep_rate(settings["keep_rate"]))
        return net
    if checkpoint is None:
        raise ValueError("pass --checkpoint FILE, the weights of a model that was trained with METR.")
    state = read_checkpoint(checkpoint)
    exits = exits_in(state)
    if not exits:
        raise ValueError(f"{checkpoint} has no exit heads (keys blocks.N.method.exit.*): train the model with METR.")
    net = build_for(model, state, img_size)
    reduce_tokens(net, METR(method=_inner(method or "evit", settings), exits=exits))
    return _fill(net, state, model, checkpoint, img_size)


def _inner(text: str, settings: Mapping[str, Any]) -> Method:
    """The one method that the text names, with what is set in it and by options; ValueError for a second word on it."""
    from ..api import method_from
    from ..compare.method_text import read_methods

    choices = read_methods(text)
    if len(choices) > 1:
        raise ValueError(f"METR trains along one method, and --method names {len(choices)}.")
    name, own = choices[0]
    if both := own.keys() & settings.keys():
        raise ValueError(f"{', '.join(sorted(both))} is set behind the method's name already: give it once.")
    return method_from(name, **settings, **own)


def load_without_method(model: str, checkpoint: Path | None, img_size: int | None) -> nn.Module:
    """The model with all its tokens; what the checkpoint holds of a method is left out."""
    from ..load import build_for, load_model
    from ..pretrained.config import is_learned
    from ..weight_files import read_checkpoint

    if checkpoint is None:
        return load_model(model, img_size=img_size)
    state = {key: value for key, value in read_checkpoint(checkpoint).items() if not is_learned(key)}
    return _fill(build_for(model, state, img_size), state, model, checkpoint, img_size)


def exits_in(state: Mapping[str, object]) -> tuple[int, ...]:
    """The blocks, 0-based, whose exit heads are among the weights."""
    from ..core.stack import TRAINING_ONLY, WEIGHTS

    found = (re.search(rf"\.(\d+)\.{WEIGHTS}\.{TRAINING_ONLY}\.", key) for key in state)
    return tuple(sorted({int(match[1]) for match in found if match}))


def _fill(net: nn.Module, state: dict[str, Tensor], model: str, checkpoint: Path, img_size: int | None) -> nn.Module:
    from ..load import adapt_state, resample_positions
    from ..weight_files import fill

    state = adapt_state(net, state) if img_size is None else resample_positions(net, state)
    fill(net, state, model, checkpoint)
    return net
