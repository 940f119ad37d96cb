"""A recipe: all settings of a training run as one frozen value.

A recipe file is a Python file that defines a `Recipe` called RECIPE. Every field can be overridden on the command line.
Data, output folder and number of processes are not part of the recipe, so they may change between runs of it.
"""

from __future__ import annotations

import difflib
import importlib.util
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from ..core.schedule import check_seed
from ..text import shown
from .recipe_checks import check_kinds, check_limits

# Fields that change how a run is carried out but not its results: a run may be resumed with other values.
MACHINE_FIELDS = frozenset(("workers", "log_every", "checkpoint_every", "checkpoints_kept", "tensorboard"))


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All settings of a training run: model, token reduction, optimisation and augmentation.

    Learning rates are given for a batch of `lr_batch` images and scale with the batch. Lengths are in epochs.

    Raises:
        ValueError: If a field has a wrong value, or two fields do not fit together. The message names them.
    """

    # The model and its weights
    model: str
    checkpoint: str | None = None  # a file of weights, "pretrained" for timm's, None for random ones
    img_size: int | None = None  # pixels; None: the model's own; position embeddings are resampled
    num_classes: int | None = None  # None: as many as the data has
    head: str = "auto"  # auto: keep the rows of the data's classes if the weights have them; new: a random head
    # Token reduction
    method: str | None = None  # a name of list_methods(); None: all tokens
    settings: Mapping[str, Any] = field(default_factory=dict)  # of the method
    gmacs: float | None = None  # target, in 1e9, of a method that learns how much to reduce (diffrate, ltmp)
    frozen: bool = False  # train only what the method learns, with the model in eval mode
    keep_rate_start: float = 0  # epochs in which all tokens are kept
    keep_rate_epochs: float = 0  # epochs of the half cosine that follows, down to the method's keep rate; 0: at once
    # Optimisation
    epochs: float = 30
    batch_size: int = 512  # images per update, over all processes and accumulated parts
    accumulate: int = 1  # parts of an update, to save memory
    optimizer: str = "adamw"  # any of timm's
    schedule: str = "cosine"  # or tanh
    lr: float = 5e-4
    lr_batch: int | None = 512  # None: lr does not scale with the batch
    min_lr: float = 1e-6
    warmup_epochs: float = 0
    warmup_lr: float = 1e-6
    weight_decay: float = 0.05
    layer_decay: float | None = None
    method_lr: float = 1  # factor on the learning rate of weights that the method learns, such as METR's exits
    clip_grad: float | None = None  # largest norm of the gradient
    ema_decay: float = 0  # of a moving average of the weights; 0: none
    # Regularisation and augmentation
    drop_path: float = 0
    dropout: float = 0
    label_smoothing: float = 0
    mixup: float = 0
    cutmix: float = 0
    crop_scale: tuple[float, float] = (0.08, 1.0)
    hflip: float = 0.5
    color_jitter: float = 0
    auto_augment: str | None = None
    erasing: float = 0
    repeats: int = 1  # repeated augmentation: views of one image in a row
    # Teachers and token labels
    teacher: str | None = None  # name of a model
    teacher_checkpoint: str | None = None
    distillation: str = "none"  # or soft, hard
    distillation_weight: float = 0.5
    distillation_temperature: float = 1
    token_labeling: bool = False
    label_maps: str | None = None  # folder; None: the image's label for all patches
    dense_weight: float = 0.5  # of the loss on tokens
    # Running
    precision: str = "fp32"
    sharding: str = "ddp"
    grad_checkpointing: bool = False
    compile: bool = False
    seed: int = 0
    eval_batch_size: int = 128
    workers: int = 2
    log_every: int = 10  # updates
    checkpoint_every: int = 500  # updates; the end of an epoch is always one
    checkpoints_kept: int = 2
    tensorboard: bool = True

    def __post_init__(self) -> None:
        check_kinds(self)
        check_limits(self)
        check_seed(self.seed, "recipe")
        object.__setattr__(self, "crop_scale", tuple(self.crop_scale))
        self._check_together()

    def _check_together(self) -> None:
        if self.method is None and (self.settings or self.keep_rate_start or self.keep_rate_epochs):
            raise ValueError("recipe: settings and a keep-rate warm-up need a method, but method is None.")
        if self.method is None and (self.frozen or self.gmacs is not None):
            raise ValueError("recipe: frozen and gmacs are for a method that learns, but method is None.")
        if self.frozen and self.token_labeling:
            raise ValueError("recipe: token_labeling trains the model, and frozen does not: set one of them false.")
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"recipe: {self.batch_size} images cannot be split evenly into {self.accumulate} accumulated parts."
            )
        if (self.mixup or self.cutmix) and self.batch_size % (2 * self.accumulate):
            raise ValueError("recipe: mixup and cutmix pair images, so each accumulated part must be even.")
        if (self.distillation == "none") != (self.teacher is None):
            raise ValueError("recipe: set both a teacher and distillation (soft or hard), or neither.")
        if self.teacher_checkpoint is not None and self.teacher is None:
            raise ValueError("recipe: teacher_checkpoint needs a teacher, but teacher is None.")
        if self.token_labeling and (self.mixup or self.cutmix):
            raise ValueError("recipe: token_labeling mixes images itself (MixToken): set mixup 0 and cutmix 0.")
        if self.token_labeling and self.teacher is not None:
            raise ValueError(
                "recipe: token_labeling and a teacher exclude each other: the model mixes the images, and the teacher "
                "would see them unmixed."
            )
        if self.label_maps is not None and not self.token_labeling:
            raise ValueError("recipe: label_maps need token_labeling true.")
        if self.ema_decay and self.sharding == "fsdp":
            raise ValueError(
                "recipe: a moving average needs the whole weights in each process: with fsdp, set ema_decay 0."
            )

    @property
    def scaled_lr(self) -> float:
        """The learning rate for this batch size."""
        return self.lr * (1 if self.lr_batch is None else self.batch_size / self.lr_batch)

    @property
    def scaled_min_lr(self) -> float:
        """The final learning rate for this batch size."""
        return self.min_lr * (1 if self.lr_batch is None else self.batch_size / self.lr_batch)

    def override(self, changes: Mapping[str, Any]) -> Recipe:
        """Return this recipe with other values. Strings are read as JSON, except for fields that are strings."""
        known = {entry.name: entry for entry in fields(self)}
        if not isinstance(changes, Mapping) or not all(isinstance(name, str) for name in changes):
            raise ValueError(f"override takes names with values, such as {{'epochs': 30}}, not {changes!r:.80}.")
        for name in changes:
            if name not in known:
                close = difflib.get_close_matches(name, known, n=3) or sorted(known)
                raise ValueError(f"a recipe has no field {name!r}; did you mean {', '.join(close)}?")
        return replace(self, **{name: _read(value, str(known[name].type)) for name, value in changes.items()})

    def as_json(self) -> dict[str, Any]:
        """Return all fields as plain JSON values."""
        return json.loads(json.dumps(asdict(self), default=list))


def load_recipe(path: Path | str) -> Recipe:
    """Run a Python file and return its RECIPE.

    Args:
        path: The file.

    Returns:
        The recipe.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is not Python, raises an error, or defines no RECIPE.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no recipe {path}: name a Python file that defines RECIPE.")
    specification = importlib.util.spec_from_file_location(f"vitrim_recipe_{path.stem}", path)
    if path.suffix != ".py" or specification is None or specification.loader is None:
        raise ValueError(f"{path} is not a recipe: name a Python file that defines RECIPE.")
    module = importlib.util.module_from_spec(specification)
    try:
        specification.loader.exec_module(module)
    except SyntaxError as error:
        raise ValueError(f"{path}, line {error.lineno}, is not Python: {error.msg}.") from error
    except (Exception, SystemExit) as error:  # the file can raise anything
        message = str(error).replace("Recipe.__init__() ", "") or type(error).__name__
        kind = "" if isinstance(error, ValueError | TypeError) else f"{type(error).__name__}: "
        raise ValueError(f"{path}: {kind}{message.rstrip('.')}.") from error
    recipe = getattr(module, "RECIPE", None)
    if not isinstance(recipe, Recipe):
        raise ValueError(f"{path} defines no RECIPE of type vitrim.Recipe.")
    return recipe


def changed_fields(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """For example ['lr was 0.1 and is 0.2'], for each field that changes the results.

    A field that an old recipe lacks, since it came later, has its default there.
    """
    old = {entry.name: entry.default for entry in fields(Recipe) if entry.name in new} | dict(old)
    names = sorted((old.keys() | new.keys()) - MACHINE_FIELDS)
    return [
        f"{shown(name, 60)} was {shown(repr(old.get(name)))} and is {shown(repr(new.get(name)))}"
        for name in names
        if old.get(name) != new.get(name)
    ]


def read_text(value: str) -> Any:
    """Read a string from the command line as none, true, false, a number or a list; else return it as it is."""
    if value.lower() in ("none", "null"):
        return None
    try:
        found = json.loads(value.lower() if value in ("True", "False") else value)
    except (ValueError, RecursionError):  # not JSON, or nested too deeply
        return value
    return tuple(found) if isinstance(found, list) else found


def _read(value: Any, annotation: str) -> Any:
    """Read a string as the value of a field, unless the field is a string itself."""
    if not isinstance(value, str) or annotation == "str":
        return value
    if annotation.startswith("str"):
        return None if value.lower() in ("none", "null") else value
    return read_text(value)
