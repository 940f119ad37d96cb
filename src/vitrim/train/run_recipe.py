"""Run a recipe: from a recipe and a folder of images to a trained model."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from .. import failures
from ..store import locked
from .checkpoint import TrainingError, last_checkpoint
from .folder import RunFolder
from .loop import Listener, Trainer
from .outcome import save_curves, save_model
from .recipe import Recipe
from .setup import Setup

PATIENCE = 8  # seconds to wait for the lock: the workers of a killed run hold it for up to five


def run_recipe(
    recipe: Recipe, data: Path | str, output: Path | str, *, listener: Listener | None = None, cpu: bool = False
) -> dict[str, Any]:
    """Train a recipe on a folder of images, or resume a run that was stopped.

    Args:
        recipe: The settings of the run.
        data: A folder with train and val, each with one sub-folder of images per class.
        output: The run's folder. If it holds a run of the same recipe, that run is resumed.
        listener: Called with a `TrainingProgress` for each line of the log.
        cpu: Whether to train on the CPU even if there is a GPU.

    Returns:
        The run's summary.

    Raises:
        ValueError, OSError: If recipe, data or output do not fit.
        TrainingError: If training cannot continue. The last checkpoint is complete in any case.
    """
    if not isinstance(recipe, Recipe):
        raise ValueError(
            f"run_recipe needs a Recipe, such as load_recipe(file) returns, not a {type(recipe).__name__}."
        )
    RunFolder(Path(output)).check(recipe)  # before anything takes time
    setup = Setup(recipe, Path(data), cpu=cpu)
    output, main = Path(output), setup.accelerator.is_main_process
    folder = RunFolder(output, writes=main, tensorboard=setup.recipe.tensorboard)
    trainer = Trainer(setup, folder, listener)
    with ExitStack() as held:
        with setup.accelerator.main_process_first():  # then the other processes find the folder claimed
            if main:
                folder.check(setup.recipe, setup.facts)
                _lock(output, held)
            folder.claim(setup.recipe, setup.facts)
        held.callback(folder.close)
        accuracy = _run(trainer)
        summary = _summary(trainer, accuracy)
        summary |= save_model(setup, folder, summary)
        if main:
            save_curves(folder)
            folder.finish(summary)
        setup.accelerator.wait_for_everyone()
    return summary


def _run(trainer: Trainer) -> dict[str, float]:
    """Train to the end; TrainingError, naming the last checkpoint, if memory is short or a worker was killed."""
    try:
        return trainer.run()
    except TrainingError:
        raise
    except Exception as error:  # each library has its own error classes
        if (reason := failures.reason(error, "batch_size")) is None:
            raise
        raise TrainingError(f"{reason} {last_checkpoint(trainer.folder.checkpoints)}") from error


def _lock(output: Path, held: ExitStack) -> None:
    """Lock the folder until `held` is closed; ValueError if another run uses it."""
    last_try = time.monotonic() + PATIENCE
    while True:
        try:
            held.enter_context(locked(output))
            return
        except ValueError:
            if time.monotonic() >= last_try:
                raise
            time.sleep(0.2)


def _summary(trainer: Trainer, accuracy: dict[str, float]) -> dict[str, Any]:
    setup, speeds = trainer.setup, [entry["images_per_s"] for entry in trainer.folder.entries()]
    return {
        "recipe": setup.recipe.as_json(),
        **setup.facts,
        "weights_from": setup.weights_from,
        "updates": trainer.num_steps,
        "processes": setup.accelerator.num_processes,
        "seconds": round(trainer.seconds, 1),
        "images_per_s": round(sorted(speeds)[len(speeds) // 2], 1) if speeds else None,
        "unreadable_images": len(trainer.unreadable),
        "gmacs": round(setup.gmacs, 4),
        **{name: round(value, 3) for name, value in accuracy.items()},
    }
