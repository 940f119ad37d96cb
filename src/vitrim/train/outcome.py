"""Write the results of a finished run: the model's folder, and the curves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..saving.write import save_pretrained
from ..store import replace_file
from ..text import shown
from . import checkpoint
from .checkpoint import TrainingError, last_checkpoint
from .curves import curves_svg
from .folder import RunFolder
from .setup import Setup
from .start import start_model


def save_model(setup: Setup, folder: RunFolder, summary: Mapping[str, Any]) -> None:
    """Save the model, for `from_pretrained`; with the averaged weights if there is a moving average.

    If the weights are sharded, all processes must call this. The first one writes. TrainingError if it cannot.
    """
    averaged = setup.ema is not None
    if not (setup.sharded or setup.accelerator.is_main_process):
        return
    tensors = checkpoint.model_tensors(setup.model if setup.ema is None else setup.ema.module)
    if not setup.accelerator.is_main_process:
        return
    # Build the model again, on the CPU, without wrappers and shards.
    model, _ = start_model(replace(setup.recipe, checkpoint=None, num_classes=setup.num_classes), ())
    model.load_state_dict(tensors)
    metrics = {"top1": summary["ema_top1" if averaged else "top1"], "images": summary["val_images"]}
    notes = f"Trained for {summary['updates']} updates from {shown(summary['weights_from'])}."
    notes += " The weights are the moving average of the trained ones." if averaged else ""
    try:
        save_pretrained(model.eval(), folder.model, recipe=setup.recipe.as_json(), metrics=metrics, notes=notes)
    except (OSError, ValueError) as error:
        raise TrainingError(
            f"training is done, but the model cannot be saved: {error} {last_checkpoint(folder.checkpoints)}"
        ) from error


def save_curves(folder: RunFolder) -> None:
    """Draw curves.svg from the log."""
    replace_file(folder.folder / "curves.svg", curves_svg(folder.entries()))
