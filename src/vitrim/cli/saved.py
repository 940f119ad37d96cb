"""Folders of `save_pretrained` given as --model: what becomes of the reduction that they hold."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


def load(model: str, checkpoint: Path | None, img_size: int | None) -> tuple[nn.Module, str]:
    """The model as `vitrim evaluate` takes it where no method is asked for, and what to call it."""
    from ..loading.build import load_model
    from ..loading.from_pretrained import load_saved, saved_method
    from ..loading.names import is_saved

    if checkpoint is not None or not is_saved(model):
        return load_model(model, checkpoint, img_size=img_size), model
    method = saved_method(Path(model), exits=False)
    net = load_saved(Path(model), exits=False, img_size=img_size)
    return net, model if method is None else f"{model}, {method.name} as it was saved"
