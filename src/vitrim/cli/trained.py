"""The model of `vitrim anytime`: a checkpoint of a training run, or a saved folder, with what the options set."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

    from ..core.method import Method


def load_with_exits(
    model: str, checkpoint: Path | None, method: str | None, settings: Mapping[str, Any], img_size: int | None
) -> nn.Module:
    """The model with its exit heads on, reduced by METR over the method: EViT, or the saved folder's, if None.

    ValueError for a checkpoint without heads, or settings that do not fit.
    """
    from ..backbones.reader import find_stack
    from ..loading.from_pretrained import load_saved
    from ..loading.names import is_saved
    from ..loading.trained import load_exits

    if checkpoint is None and is_saved(model):
        if method is not None or settings.keys() - {"keep_rate"}:
            raise ValueError(f"{model} was saved with its method: leave out --method, --mass, --layers and --scorer.")
        net = load_saved(Path(model), exits=True, img_size=img_size)
        found = find_stack(net)
        if found is not None and "keep_rate" in settings:
            found.stack.act(found.stack.method.at_keep_rate(settings["keep_rate"]))
        return net
    if checkpoint is None:
        raise ValueError("pass --checkpoint FILE, the weights of a model that was trained with METR.")
    return load_exits(model, checkpoint, _inner(method or "evit", settings), img_size)


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
