"""Everything that a run needs, made from its recipe: processes, model, images, optimiser, schedule."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..backbones.reader import find_stack
from ..measure.evaluate import eval_transform
from ..measure.images import SUFFIXES, ImageDataError, list_images
from .data import TrainingImages, Transform
from .evaluation import accuracy
from .recipe import Recipe
from .start import start_model, start_teacher
from .task import ClassificationTask


class Setup:
    """The parts of one run. data: a folder with train/ and val/, each with one sub-folder per class."""

    def __init__(self, recipe: Recipe, data: Path, *, cpu: bool = False):
        self.recipe = recipe
        self.accelerator = _accelerator(recipe, cpu)
        classes = class_folders(data / "train")
        num_classes = recipe.num_classes or len(classes)
        images = list_images(data / "train", num_classes)
        self.val_images = list_images(data / "val", num_classes)
        torch.manual_seed(recipe.seed)  # of a new head, and of random weights
        self.model, self.weights_from = start_model(recipe, classes)
        channels = getattr(self.model, "in_chans", None) or 3
        self.train_images = TrainingImages(images, training_transform(recipe, self.model), channels, recipe.seed)
        self.eval_transform = eval_transform(self.model)
        self.channels, self.num_classes = channels, num_classes
        self._set_up_reduction()
        self._set_up_optimisation(start_teacher(recipe, classes))

    @property
    def facts(self) -> dict[str, Any]:
        """What else must be the same when a run is resumed."""
        images = self.train_images.images
        return {"train_images": len(images), "val_images": len(self.val_images), "num_classes": self.num_classes}

    def _set_up_reduction(self) -> None:
        found = find_stack(self.model)
        self.stack = None if found is None else found.stack
        method = None if self.stack is None else self.stack.method
        warms = self.recipe.keep_rate_start > 0 or self.recipe.keep_rate_epochs > 0
        self.target_rate: float | tuple[float, ...] | None = None
        self._rate: object = None
        if method is not None and warms:
            method.at_keep_rate(1.0)  # an error says if it has none
            reducing: Any = getattr(method, "method", method)  # METR's is inside
            self.target_rate = reducing.keep_rate

    def _set_up_optimisation(self, teacher: nn.Module | None) -> None:
        from timm.optim import create_optimizer_v2
        from timm.utils import ModelEmaV3

        recipe = self.recipe
        task = ClassificationTask(
            self.model,
            label_smoothing=recipe.label_smoothing,
            teacher=teacher,
            distillation=recipe.distillation,
            weight=recipe.distillation_weight,
            temperature=recipe.distillation_temperature,
        ).to(self.accelerator.device)
        self.ema = ModelEmaV3(self.model, decay=recipe.ema_decay) if recipe.ema_decay else None
        task.listen()
        self.bare_optimizer: Any = create_optimizer_v2(
            self.model,
            opt=recipe.optimizer,
            lr=recipe.scaled_lr,
            weight_decay=recipe.weight_decay,
            layer_decay=recipe.layer_decay,
        )
        self.scheduler = self._scheduler()
        self.mixup = _mixup(recipe, self.num_classes)
        self.task, self.optimizer = self.accelerator.prepare(task, self.bare_optimizer)
        if recipe.compile:
            self.task.compile()

    def _scheduler(self) -> Any:
        """timm's scheduler, asked for each update; it keeps no state."""
        from timm.scheduler import create_scheduler_v2

        recipe, steps_per_epoch = self.recipe, len(self.train_images.images) // self.recipe.batch_size
        scheduler, _ = create_scheduler_v2(
            self.bare_optimizer,
            sched=recipe.schedule,
            num_epochs=max(1, round(recipe.epochs * steps_per_epoch)),
            warmup_epochs=round(recipe.warmup_epochs * steps_per_epoch),
            warmup_lr=recipe.warmup_lr,
            min_lr=recipe.scaled_min_lr,
            step_on_epochs=False,
            updates_per_epoch=1,
        )
        return scheduler

    def set_lr(self, step: int) -> float:
        """Set the learning rate of an update, and return the highest of all groups."""
        self.scheduler.step_update(step)
        return max(group["lr"] for group in self.bare_optimizer.param_groups)

    def set_keep_rate(self, rate: float | tuple[float, ...]) -> None:
        """Let all blocks act at this keep rate."""
        if self.stack is not None and rate != self._rate:
            self.stack.act(self.stack.method.at_keep_rate(rate))
            self._rate = rate

    def mix(self, x_BCHW: Tensor, labels_B: Tensor, images_B: Tensor) -> tuple[Tensor, Tensor]:
        """Images and targets after mixup and cutmix; images_B are their numbers in the folder."""
        if self.mixup is None:
            return x_BCHW, labels_B
        return self.mixup(x_BCHW, labels_B)

    def evaluate(self, batch_size: int) -> dict[str, float]:
        """Top-1 in per cent on the validation images, of the model and of its moving average."""
        if self.target_rate is not None:
            self.set_keep_rate(self.target_rate)
        if self.stack is not None:
            self.stack.publish_into(None)
        models = {"top1": self.model}
        if self.ema is not None:
            models["ema_top1"] = self.ema.module
        images, transform = self.val_images, self.eval_transform
        found = {
            name: accuracy(model, images, transform, self.channels, batch_size, self.accelerator)
            for name, model in models.items()
        }
        self.accelerator.unwrap_model(self.task).listen()
        return found

    def any_process(self, here: bool) -> bool:
        """Whether it is so in any process."""
        told = torch.tensor([float(here)], device=self.accelerator.device)
        return bool(self.accelerator.reduce(told, "sum").item() > 0)


def class_folders(folder: Path) -> list[str]:
    """Names of the class folders with images in them, sorted. ImageDataError says what is missing."""
    if not folder.is_dir():
        raise ImageDataError(f"there is no folder {folder}: data holds train and val, each with its class folders.")
    names = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not names:
        raise ImageDataError(f"{folder} holds no classes: wanted one sub-folder of images per class.")
    empty = [name for name in names if not any(p.suffix.lower() in SUFFIXES for p in (folder / name).rglob("*"))]
    if empty:
        raise ImageDataError(f"{folder / empty[0]} holds no images: remove it, or fill it ({len(empty)} such folders).")
    return names


def training_transform(recipe: Recipe, model: nn.Module) -> Transform:
    """timm's training transform at the model's resolution and normalisation."""
    from timm import data

    timm_data: Any = data  # untyped
    config = timm_data.resolve_data_config({}, model=model)
    size = config["input_size"] if recipe.img_size is None else (config["input_size"][0], *[recipe.img_size] * 2)
    transform: Transform = timm_data.create_transform(
        size,
        is_training=True,
        scale=recipe.crop_scale,
        hflip=recipe.hflip,
        color_jitter=recipe.color_jitter,
        auto_augment=recipe.auto_augment,
        interpolation=config["interpolation"],
        mean=config["mean"],
        std=config["std"],
        re_prob=recipe.erasing,
    )
    return transform


def _mixup(recipe: Recipe, num_classes: int) -> Any:
    if not recipe.mixup and not recipe.cutmix:
        return None
    from timm import data

    timm_data: Any = data  # untyped
    return timm_data.Mixup(recipe.mixup, recipe.cutmix, label_smoothing=recipe.label_smoothing, num_classes=num_classes)


def _accelerator(recipe: Recipe, cpu: bool) -> Any:
    from accelerate import Accelerator, FullyShardedDataParallelPlugin

    cpu = cpu or not torch.cuda.is_available()
    if cpu and recipe.precision == "fp16":
        raise ValueError("recipe: fp16 needs a GPU; on a CPU take bf16 or fp32.")
    plugin = None
    if recipe.sharding == "fsdp":
        plugin = FullyShardedDataParallelPlugin(fsdp_version=2, reshard_after_forward=True)
    precision = "no" if recipe.precision == "fp32" else recipe.precision
    return Accelerator(cpu=cpu, mixed_precision=precision, fsdp_plugin=plugin)
