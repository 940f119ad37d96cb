"""One call from a recipe to a trained model: `run_recipe(recipe, data, output)`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..measure.macs import count_macs
from .folder import RunFolder
from .loop import Listener, Trainer
from .recipe import Recipe
from .setup import Setup


def run_recipe(
    recipe: Recipe, data: Path | str, output: Path | str, *, listener: Listener | None = None, cpu: bool = False
) -> dict[str, Any]:
    """Train a recipe on a folder of images, or go on with a run that was stopped; returns its summary.

    data: a folder with train and val, each with one sub-folder of images per class. output: the run's folder; one
    that holds a run of the same recipe is resumed. Errors: ValueError and OSError for what does not fit,
    TrainingError where training cannot go on; the last checkpoint is whole in any case.
    """
    output = Path(output)
    setup = Setup(recipe, Path(data), cpu=cpu)
    main = setup.accelerator.is_main_process
    folder = RunFolder(output, writes=main, tensorboard=recipe.tensorboard)
    folder.claim(recipe, setup.facts)
    setup.accelerator.wait_for_everyone()
    trainer = Trainer(setup, folder, listener)
    accuracy = trainer.run()
    summary = _summary(trainer, accuracy)
    if main:
        folder.finish(summary)
    setup.accelerator.wait_for_everyone()
    setup.accelerator.end_training()
    return summary


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
        "gmacs": round(count_macs(setup.model) / 1e9, 4),
        **{name: round(value, 3) for name, value in accuracy.items()},
    }
