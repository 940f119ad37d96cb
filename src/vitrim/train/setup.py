"""Make all parts of a run from its recipe: processes, model, images, optimiser, schedule."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..backbones.reader import find_stack, read_backbone
from ..core.amount import KEEP_RATE
from ..core.exits import TRAINING_ONLY
from ..core.method import plain_settings
from ..core.stack import TokenStack
from ..measure.batches import ImageDataset
from ..measure.macs import count_macs
from ..measure.model_input import eval_transform, input_size_of
from .class_folders import classes_of, digest, labelled_views
from .data import TrainingImages, Transform
from .evaluation import accuracies
from .label_views import LabelMap, LabelViews
from .learned import scale_learned, train_learned
from .processes import make_accelerator, shard
from .recipe import Recipe
from .start import NEW_HEAD, start_model, start_teacher
from .task import ClassificationTask, TokenLabelingTask
from .token_labeling import image_targets, label_map_targets, repeated


class Setup:
    """The parts of one run. data: a folder with train and val, each with one sub-folder of images per class."""

    def __init__(self, recipe: Recipe, data: Path, *, cpu: bool = False):
        self.recipe = recipe
        self.accelerator = make_accelerator(recipe, cpu)
        classes = classes_of(data)
        num_classes = recipe.num_classes or len(classes)
        self.unreadable: dict[str, str] = {}  # validation images that could not be read -> why
        torch.manual_seed(recipe.seed)  # for a new head and for random weights
        self.model, self.weights_from = start_model(recipe, classes)
        keeps_head = recipe.checkpoint is not None and not self.weights_from.endswith(NEW_HEAD)
        images, self.val_images = labelled_views(data, self.model, num_classes, keeps_head)
        channels, transform = input_size_of(self.model)[0], training_transform(recipe, self.model)
        label_views = None if recipe.label_maps is None else LabelViews(Path(recipe.label_maps), transform)
        if label_views is not None:
            label_views.check([images.name(0)])
        self.train_images = TrainingImages(images, transform, channels, recipe.seed, label_views)
        self.eval_transform = eval_transform(self.model)
        self.channels, self.num_classes = channels, num_classes
        self._set_up_reduction()
        self.bare_task = _task(recipe, self.model, start_teacher(recipe, classes, self.model))
        self._set_up_optimisation()

    @property
    def facts(self) -> dict[str, Any]:
        """Values beside the recipe that must be the same when a run is resumed."""
        images = self.train_images.images
        return {
            "train_images": len(images),
            "val_images": len(self.val_images),
            "num_classes": self.num_classes,
            "images_digest": digest(images, self.val_images),
        }

    def _set_up_reduction(self) -> None:
        found = find_stack(self.model)
        self.stack = None if found is None else found.stack
        self.gmacs = count_macs(self.model) / 1e9
        method = None if self.stack is None else self.stack.method
        warms = self.recipe.keep_rate_start > 0 or self.recipe.keep_rate_epochs > 0
        self.target_rate: float | tuple[float, ...] | None = None
        self._rate: object = None
        if method is not None and warms:
            method.at_keep_rate(1.0)  # raises an error if the method has no keep rate
            self.target_rate = plain_settings(method)[KEEP_RATE.setting]

    def _set_up_optimisation(self) -> None:
        from accelerate import DistributedDataParallelKwargs
        from timm.optim import create_optimizer_v2
        from timm.utils import ModelEmaV3

        recipe, task = self.recipe, self.bare_task.to(self.accelerator.device)
        self.ema = ModelEmaV3(self.model, decay=recipe.ema_decay) if recipe.ema_decay else None
        if self.sharded:
            blocks = read_backbone(self.model).blocks if self.stack is None else self.stack
            shard(self.model, blocks.children(), self.accelerator)
        self.bare_optimizer: Any = create_optimizer_v2(
            self.model,
            opt=recipe.optimizer,
            lr=recipe.scaled_lr,
            weight_decay=recipe.weight_decay,
            layer_decay=recipe.layer_decay,
        )
        scale_learned(self.bare_optimizer, self.model, recipe.method_lr)
        self.scheduler = self._scheduler()
        self.mixup = _mixup(recipe, self.num_classes)
        self.optimizer = self.accelerator.prepare(self.bare_optimizer)
        if self.target_rate is not None and _learns(self.stack):  # at keep rate 1, its weights get no gradient
            self.accelerator.ddp_handler = DistributedDataParallelKwargs(find_unused_parameters=True)
        self.task = task if self.sharded else self.accelerator.prepare(task)
        if recipe.compile:
            self.task.compile()

    def _scheduler(self) -> Any:
        """timm's scheduler, stepped by update. It has no state."""
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
        """Set the learning rate of an update, and return it without layer decay and method_lr."""
        self.scheduler.step_update(step)
        return max(group["lr"] / group.get("lr_scale", 1) for group in self.bare_optimizer.param_groups)

    def train(self) -> None:
        """Set the training mode: of the task, or of what the method learns alone, if the model is frozen."""
        self.task.train()
        if self.recipe.frozen:
            train_learned(self.model)

    def set_keep_rate(self, rate: float | tuple[float, ...]) -> None:
        """Set the keep rate of all blocks."""
        if self.stack is not None and rate != self._rate:
            self.stack.set_method(self.stack.method.at_keep_rate(rate))
            self._rate = rate

    def mix(self, x_BCHW: Tensor, labels_B: Tensor, maps: LabelMap | None) -> tuple[Tensor, Any]:
        """Return images and targets after mixup and cutmix, or with the targets of token labeling."""
        if self.recipe.token_labeling:
            return x_BCHW, self._token_targets(labels_B, maps)
        if self.mixup is None:
            return x_BCHW, labels_B
        return self.mixup(x_BCHW, labels_B)

    def _token_targets(self, labels_B: Tensor, maps: LabelMap | None) -> tuple[Tensor, Tensor]:
        """Return targets of images [B, K] and patches [B, P, K], from label maps or by repeating the labels."""
        assert isinstance(self.bare_task, TokenLabelingTask)
        grid, smoothing = self.bare_task.grid, self.recipe.label_smoothing
        if maps is None:
            target_BK = image_targets(labels_B, self.num_classes, smoothing)
            return target_BK, repeated(target_BK, grid[0] * grid[1])
        map_B2THW, crop_B4, flip_B = (part.to(labels_B.device) for part in maps)
        return label_map_targets(map_B2THW, crop_B4, self.num_classes, grid, flip_B=flip_B, smoothing=smoothing)

    def evaluate(self, batch_size: int) -> dict[str, float]:
        """Return the top-1 in percent on the validation images, of the model and of its moving average."""
        if self.target_rate is not None:
            self.set_keep_rate(self.target_rate)
        if self.stack is not None:
            self.stack.collect_outputs(None)
        models = {"top1": self.model}
        if self.ema is not None:
            models["ema_top1"] = self.ema.module
        dataset = ImageDataset(self.val_images, self.eval_transform, self.channels)
        scores = accuracies(models, dataset, batch_size, self.accelerator, self.recipe.workers)
        self.unreadable |= {f"val/{name}": reason for name, reason in scores.unreadable.items()}
        if self.sharded:
            self.model.reshard()  # type: ignore[operator]  # the root's weights stay gathered after a forward
        self.accelerator.unwrap_model(self.task).listen()
        return scores.top1

    @property
    def sharded(self) -> bool:
        """Whether the weights are sharded over the processes."""
        return self.recipe.sharding == "fsdp"


def training_transform(recipe: Recipe, model: nn.Module) -> Transform:
    """Return timm's training transform at the model's resolution and normalisation."""
    from timm import data

    timm_data: Any = data  # untyped
    config = timm_data.resolve_data_config({}, model=model)
    try:
        transform: Transform = timm_data.create_transform(
            input_size_of(model),
            is_training=True,
            scale=recipe.crop_scale,
            hflip=recipe.hflip,
            color_jitter=recipe.color_jitter,
            auto_augment=recipe.auto_augment,
            interpolation=config["interpolation"],
            mean=config["mean"],
            std=config["std"],
            re_prob=recipe.erasing,
            re_mode="pixel",  # noise, as in the official code of DeiT and LV-ViT
        )
    except (AssertionError, ValueError) as error:
        raise ValueError(f"recipe: timm cannot make a transform, check auto_augment: {error}.") from error
    return transform


def _task(recipe: Recipe, model: nn.Module, teacher: nn.Module | None) -> ClassificationTask:
    if recipe.token_labeling:
        return TokenLabelingTask(model, dense_weight=recipe.dense_weight)
    return ClassificationTask(
        model,
        label_smoothing=recipe.label_smoothing,
        teacher=teacher,
        distillation=recipe.distillation,
        weight=recipe.distillation_weight,
        temperature=recipe.distillation_temperature,
    )


def _learns(stack: TokenStack | None) -> bool:
    """Whether the method has weights that inference needs."""
    blocks: list[Any] = [] if stack is None else list(stack)
    return any(name != TRAINING_ONLY for block in blocks if block.weights for name, _ in block.weights.named_children())


def _mixup(recipe: Recipe, num_classes: int) -> Any:
    if not recipe.mixup and not recipe.cutmix:
        return None
    from timm import data

    timm_data: Any = data  # untyped
    return timm_data.Mixup(recipe.mixup, recipe.cutmix, label_smoothing=recipe.label_smoothing, num_classes=num_classes)
