"""The training loop: updates, evaluation, checkpoints and resuming.

Every update seeds the random generators from the recipe's seed, the update's number and the process. So a run that is
killed and resumed computes the same numbers as an uninterrupted one. Under torchrun, the processes share each batch.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..measure.batches import one_pass
from ..measure.images import ImageDataError
from . import checkpoint
from .checkpoint import TrainingError
from .data import Views, ViewSampler, seed_all, view_loader
from .folder import RunFolder
from .processes import from_all
from .setup import Setup
from .stored import check_state
from .warmup import keep_rates_at
from .window import Window, first_unreal


@dataclass
class TrainingProgress:
    """One line of the log. Losses and images/s are means since the previous line."""

    step: int
    num_steps: int
    epoch: float
    loss: float = math.nan
    parts: dict[str, float] = field(default_factory=dict)
    lr: float = 0.0
    keep_rate: float | tuple[float, ...] | None = None
    images_per_s: float = 0.0
    seconds_left: float = 0.0
    accuracy: dict[str, float] = field(default_factory=dict)


Listener = Callable[[TrainingProgress], None]


class Trainer:
    """One run of a recipe. `run` trains to the end, from the newest checkpoint in the folder if there is one."""

    def __init__(self, setup: Setup, folder: RunFolder, listener: Listener | None = None):
        self.setup, self.folder, self.recipe = setup, folder, setup.recipe
        self.accelerator, self.task, self.optimizer = setup.accelerator, setup.task, setup.optimizer
        self.listener = listener
        self.steps_per_epoch = len(setup.train_images.images) // self.recipe.batch_size
        self.num_steps = max(1, round(self.recipe.epochs * self.steps_per_epoch))
        self.step, self.seconds = 0, 0.0
        self.unreadable: dict[str, str] = {}
        self.accuracy: dict[str, float] = {}
        self.window = Window()
        self._check_parts(self._sampler())

    def _check_parts(self, sampler: ViewSampler) -> None:
        """Raise ValueError if mixup cannot pair the images of one process. The sampler has checked the rest."""
        part = sampler.batch_size // (sampler.world_size * sampler.accumulate)
        if self.setup.mixup is not None and part % 2:
            raise ValueError(
                f"recipe: mixup and cutmix pair images, but each of {sampler.world_size} processes gets {part}, an odd "
                "number: change batch_size or accumulate."
            )

    def run(self) -> dict[str, float]:
        """Train to the end and return the accuracies (top-1 in percent) of the last evaluation."""
        self._resume()
        started = time.perf_counter() - self.seconds
        with closing(self._batches()) as batches:
            for updates in batches:
                self._update(updates)
                self.step += 1
                self.seconds = time.perf_counter() - started
                ends_epoch = self.step % self.steps_per_epoch == 0 or self.step == self.num_steps
                saves = ends_epoch or self.step % self.recipe.checkpoint_every == 0
                if ends_epoch:
                    with self.window.paused():
                        self.accuracy = self._evaluate()
                if saves or self.step % self.recipe.log_every == 0:
                    self._log(self.accuracy if ends_epoch else {})
                if saves:
                    self._save()
        return self.accuracy

    def _evaluate(self) -> dict[str, float]:
        found = self.setup.evaluate(self.recipe.eval_batch_size)
        self._note(self.setup.unreadable)
        return found

    def _sampler(self) -> ViewSampler:
        return ViewSampler(
            len(self.setup.train_images.images),
            batch_size=self.recipe.batch_size,
            num_steps=self.num_steps,
            first_step=self.step,
            rank=self.accelerator.process_index,
            world_size=self.accelerator.num_processes,
            accumulate=self.recipe.accumulate,
            repeats=self.recipe.repeats,
            seed=self.recipe.seed,
        )

    def _batches(self) -> Generator[list[Views], None, None]:
        pin = self.accelerator.device.type == "cuda"
        with one_pass(view_loader(self.setup.train_images, self._sampler(), self.recipe.workers, pin=pin)) as views:
            for _ in range(self.step, self.num_steps):
                yield [next(views) for _ in range(self.recipe.accumulate)]

    def _update(self, parts: list[Views]) -> None:
        """Run one optimiser step over the accumulated parts of a batch."""
        seed_all(self.recipe.seed, self.step, self.accelerator.process_index)
        self.setup.train()
        lr = self.setup.set_lr(self.step)
        keep_rate = self._set_keep_rate()
        for i, views in enumerate(parts):
            last = i == len(parts) - 1
            with nullcontext() if last else self.accelerator.no_sync(self.task):
                self._backward(views, 1 / len(parts))
        if self.recipe.clip_grad is not None:
            self.accelerator.clip_grad_norm_(self.task.parameters(), self.recipe.clip_grad)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.setup.ema is not None:
            self.setup.ema.update(self.setup.model)
        self.window.end_update(lr, keep_rate, self.recipe.batch_size)

    def _backward(self, views: Views, share: float) -> None:
        self._note(views.unreadable)
        if views.failure:
            raise ImageDataError(f"{views.failure} {checkpoint.last_checkpoint(self.folder.checkpoints)}")
        x_BCHW = views.x_BCHW.to(self.accelerator.device, non_blocking=True)
        x_BCHW, target = self.setup.mix(x_BCHW, views.labels_B.to(self.accelerator.device), views.label_maps)
        with self.accelerator.autocast():  # accelerate applies it only to models it prepared, not to sharded ones
            losses = self.task(x_BCHW, target)
        self.accelerator.backward(losses.loss * share)
        self.window.add(losses.loss.detach() * share, {k: v.detach() * share for k, v in losses.parts.items()})

    def _set_keep_rate(self) -> float | tuple[float, ...] | None:
        """Set the keep rate of this update in all blocks, and return it."""
        recipe = self.recipe
        if self.setup.target_rate is None:
            return None
        rate = keep_rates_at(
            self.step, self.steps_per_epoch, self.setup.target_rate, recipe.keep_rate_start, recipe.keep_rate_epochs
        )
        self.setup.set_keep_rate(rate)
        return rate

    def _note(self, unreadable: dict[str, str]) -> None:
        for name, reason in unreadable.items():
            if name not in self.unreadable:
                self.folder.warn(f"skipped: {reason}")
        self.unreadable |= unreadable

    def _log(self, accuracy: dict[str, float]) -> None:
        for unreadable in from_all(self.accelerator, self.unreadable):  # each process decodes its own images
            self._note(unreadable)
        losses, parts = self.window.means(self.accelerator)
        unreal = first_unreal(losses)
        if unreal is not None:
            raise TrainingError(
                f"the loss is {losses[unreal]} at update {self.step - len(losses) + unreal + 1}: lower lr, raise "
                f"warmup_epochs, or set clip_grad. {checkpoint.last_checkpoint(self.folder.checkpoints)}"
            )
        done = self.step / self.steps_per_epoch
        mean = sum(losses) / len(losses)
        progress = TrainingProgress(self.step, self.num_steps, done, mean, parts, accuracy=accuracy)
        progress.lr, progress.keep_rate = self.window.lr, self.window.keep_rate
        progress.images_per_s = self.window.images_per_s()
        left = (self.num_steps - self.step) * self.recipe.batch_size
        progress.seconds_left = left / progress.images_per_s if progress.images_per_s else 0.0
        self.window = Window()
        if self.accelerator.is_main_process:
            self.folder.log(progress.__dict__)
            if self.listener is not None:
                self.listener(progress)

    def _save(self) -> None:
        """Write a checkpoint of this step. The first process writes; all gather the shards."""
        error = None
        if self.setup.sharded or self.accelerator.is_main_process:
            files, state = self._state()
        if self.accelerator.is_main_process:
            try:
                self.folder.sync()  # a checkpoint must not be ahead of the log
                checkpoint.save(self.folder.checkpoints, self.step, files, state)
                checkpoint.prune(self.folder.checkpoints, self.recipe.checkpoints_kept)
            except TrainingError as caught:
                error = caught
        if any(from_all(self.accelerator, error is not None)):
            raise error or TrainingError("the first process could not write a checkpoint; see its error.")

    def _state(self) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
        """Return everything that a resumed run needs: tensors by file name, and other values."""
        module = self.accelerator.unwrap_model(self.task).model
        tensors, plain = checkpoint.optimizer_state(self.setup.bare_optimizer, module)
        files = {"model": checkpoint.model_tensors(module), "optimizer": tensors}
        if self.setup.ema is not None:
            files["ema"] = checkpoint.model_tensors(self.setup.ema.module)
        state = {"seconds": self.seconds, "unreadable": self.unreadable, "accuracy": self.accuracy, "optimizer": plain}
        scaler = self.accelerator.scaler
        return files, state | {"scaler": None if scaler is None else scaler.state_dict()}

    def _resume(self) -> None:
        """Load the newest checkpoint, if there is one."""
        newest = checkpoint.latest(self.folder.checkpoints)
        found = [None if path is None else path.name for path in from_all(self.accelerator, newest)]
        if len(set(found)) > 1:
            raise TrainingError(f"the processes see different checkpoints ({found}): use a shared output folder.")
        if newest is not None:
            self._load(newest, *checkpoint.load(newest))
        if self.accelerator.is_main_process:
            checkpoint.clean(self.folder.checkpoints)
            self.folder.forget_after(self.step)

    def _load(self, path: Path, tensors: dict[str, dict[str, Tensor]], state: dict[str, Any]) -> None:
        try:
            check_state(state, checkpoint.step_of(path), self.num_steps)
            if self.setup.ema is not None and "ema" not in tensors:
                raise ValueError("ema.safetensors is missing")
        except ValueError as error:
            raise checkpoint.unreadable(path, error) from error
        module: nn.Module = self.accelerator.unwrap_model(self.task).model
        checkpoint.load_model_tensors(module, tensors["model"])
        checkpoint.load_optimizer(self.setup.bare_optimizer, module, tensors["optimizer"], state["optimizer"])
        if self.setup.ema is not None:
            checkpoint.load_model_tensors(self.setup.ema.module, tensors["ema"])
        if self.accelerator.scaler is not None and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.step, self.seconds = state["step"], state["seconds"]
        self.unreadable, self.accuracy = state["unreadable"], state["accuracy"]
