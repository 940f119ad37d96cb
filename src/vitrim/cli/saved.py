"""Folders of `save_pretrained` given as --model: what becomes of the reduction that they hold."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from torch import nn


def note(model: str) -> None:
    """Say, in a command with methods of its own, that the saved one does not act."""
    from ..loading.from_pretrained import saved_method
    from ..loading.names import is_saved

    method = saved_method(Path(model), exits=False) if is_saved(model) else None
    if method is not None:
        typer.echo(
            f"note: {model} was saved with {method.name}; here its weights are taken with all tokens, and the methods "
            "are those of --methods. `vitrim evaluate` measures it as it was saved.",
            err=True,
        )


def build(model: str, img_size: int | None) -> nn.Module:
    """The model with random weights, for a command with methods of its own."""
    from ..loading.build import build_model

    note(model)
    return build_model(model, img_size=img_size)


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
