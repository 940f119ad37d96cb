"""Write the results of a finished run: the model's folder, and the curves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from ..api import create_method, reduce_tokens
from ..backbones.reader import find_stack
from ..core.method import Method, plain_settings
from ..measure.batches import image_batches
from ..measure.macs import count_macs
from ..saving.write import save_pretrained
from ..store import replace_file
from ..text import shown
from . import checkpoint
from .checkpoint import TrainingError, last_checkpoint
from .curves import curves_svg
from .folder import RunFolder
from .setup import Setup
from .start import start_model

COUNTED = 32  # images on which the multiply-adds of an input-adaptive method are averaged


def save_model(setup: Setup, folder: RunFolder, summary: Mapping[str, Any]) -> dict[str, Any]:
    """Save the model, for `from_pretrained`; with the averaged weights if there is a moving average.

    If the weights are sharded, all processes must call this. The first one writes. TrainingError if it cannot.
    Returns what the method has learned as settings, for the summary; nothing if it has learned none.
    """
    averaged = setup.ema is not None
    if not (setup.sharded or setup.accelerator.is_main_process):
        return {}
    tensors = checkpoint.model_tensors(setup.model if setup.ema is None else setup.ema.module)
    if not setup.accelerator.is_main_process:
        return {}
    model, settled = settled_model(setup, tensors)
    metrics = {"top1": summary["ema_top1" if averaged else "top1"], "images": summary["val_images"]}
    notes = f"Trained for {summary['updates']} updates from {shown(summary['weights_from'])}."
    notes += " The weights are the moving average of the trained ones." if averaged else ""
    try:
        save_pretrained(model.eval(), folder.model, recipe=setup.recipe.as_json(), metrics=metrics, notes=notes)
    except (OSError, ValueError) as error:
        raise TrainingError(
            f"training is done, but the model cannot be saved: {error} {last_checkpoint(folder.checkpoints)}"
        ) from error
    return {} if settled is None else {"method": in_words(settled), "gmacs": round(_macs(setup, model) / 1e9, 4)}


def settled_model(setup: Setup, tensors: Mapping[str, Tensor]) -> tuple[nn.Module, Method | None]:
    """The trained model, built anew without wrappers and shards, and the settings that it learned, if any."""
    model, _ = start_model(replace(setup.recipe, checkpoint=None, num_classes=setup.num_classes), ())
    model.load_state_dict(tensors)
    found = find_stack(model)
    if found is None:
        return model, None
    blocks: list[Any] = list(found.stack)
    settled = found.stack.method.settled([block.weights for block in blocks])
    if settled is found.stack.method:
        return model, None
    reduce_tokens(model, settled)
    own = model.state_dict()
    model.load_state_dict({name: value for name, value in tensors.items() if name in own})
    return model, settled


def in_words(method: Method) -> str:
    """A method as `--methods` takes it: 'diffrate pruned_to=[196,190] merged_to=[196,180]'."""
    plain = plain_settings(create_method(method.name))
    own = {name: value for name, value in plain_settings(method).items() if value != plain[name]}
    written = (f"{name}={[*value] if isinstance(value, tuple | list) else value}" for name, value in own.items())
    return " ".join((method.name, *(each.replace(" ", "") for each in written)))


def _macs(setup: Setup, model: nn.Module) -> int:
    """The multiply-adds of the saved model, the mean over some validation images if they depend on the image."""
    found = find_stack(model)
    if found is None or not found.stack.method.varies:
        return count_macs(model)
    images = image_batches(setup.val_images, setup.eval_transform, setup.channels, skip_bad=True)
    return count_macs(model, images_ICHW=images.sample(COUNTED))


def save_curves(folder: RunFolder) -> None:
    """Draw curves.svg from the log."""
    replace_file(folder.folder / "curves.svg", curves_svg(folder.entries()))
