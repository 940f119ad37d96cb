"""A recipe: every choice of a training run as one frozen value.

A recipe is a Python file with a `Recipe` called RECIPE; every field can be overridden from the command line. What is
not in the recipe (data, output folder, number of processes) may change between runs of the same recipe.
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
from .recipe_checks import check_kinds, check_optional, is_number

# Fields that change how a run is carried out, not what it computes: a run may be resumed with others.
MACHINE_FIELDS = frozenset(("workers", "log_every", "checkpoint_every", "checkpoints_kept", "tensorboard"))

CHOICES: Mapping[str, tuple[object, ...]] = {
    "precision": ("fp32", "bf16", "fp16"),
    "distillation": ("none", "soft", "hard"),
    "sharding": ("ddp", "fsdp"),
    "head": ("auto", "new"),
    "schedule": ("cosine", "tanh"),  # those of timm that the fields describe in full
}
AT_LEAST: Mapping[str, float] = {
    "epochs": 0.001, "batch_size": 1, "accumulate": 1, "lr": 0, "min_lr": 0, "warmup_lr": 0, "warmup_epochs": 0,
    "method_lr": 0, "weight_decay": 0, "keep_rate_start": 0, "keep_rate_epochs": 0, "mixup": 0, "cutmix": 0,
    "color_jitter": 0, "repeats": 1, "workers": 0, "log_every": 1, "checkpoint_every": 1, "checkpoints_kept": 1,
    "eval_batch_size": 1, "distillation_temperature": 1e-6, "dense_weight": 0,
}  # fmt: skip
AT_MOST: Mapping[str, int] = {"workers": 1024, "checkpoints_kept": 10**6, "accumulate": 10**6, "repeats": 10**6}
SHARES = ("drop_path", "dropout", "label_smoothing", "erasing", "ema_decay", "hflip", "distillation_weight")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What is trained, from what, on which views of the images, and how.

    Learning rates are for a batch of `lr_batch` images and scale with the batch; lengths are in epochs.
    Errors: ValueError names the field, what was wanted and what came.
    """

    # The model and where it starts
    model: str
    checkpoint: str | None = None  # a file of weights, "pretrained" for timm's, None for random ones
    img_size: int | None = None  # pixels; None is the model's own; position embeddings are resampled
    num_classes: int | None = None  # None: as many as the data has
    head: str = "auto"  # auto: keep the rows of the data's classes where the weights have them; new: start anew
    # Token reduction
    method: str | None = None  # a name of list_methods(); None reduces nothing
    settings: Mapping[str, Any] = field(default_factory=dict)  # of the method
    keep_rate_start: float = 0  # epochs in which all tokens are kept
    keep_rate_epochs: float = 0  # then a half cosine down to the method's keep rate over so many; 0: at once
    # Optimisation
    epochs: float = 30
    batch_size: int = 512  # images per update, over all processes and accumulated steps
    accumulate: int = 1
    optimizer: str = "adamw"  # any of timm's
    schedule: str = "cosine"  # or tanh
    lr: float = 5e-4
    lr_batch: int | None = 512  # None: lr is meant for any batch
    min_lr: float = 1e-6
    warmup_epochs: float = 0
    warmup_lr: float = 1e-6
    weight_decay: float = 0.05
    layer_decay: float | None = None
    method_lr: float = 1  # factor on the learning rate of what the method learns, such as METR's exits
    clip_grad: float | None = None
    ema_decay: float = 0  # 0: no moving average of the weights
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
    teacher: str | None = None
    teacher_checkpoint: str | None = None
    distillation: str = "none"
    distillation_weight: float = 0.5
    distillation_temperature: float = 1
    token_labeling: bool = False
    label_maps: str | None = None  # folder; None repeats the image's label
    dense_weight: float = 0.5
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
        check_optional(self)
        check_seed(self.seed, "recipe")
        object.__setattr__(self, "crop_scale", tuple(self.crop_scale))
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"recipe: {name} must be one of {', '.join(map(str, choices))}, not {self._of(name)}.")
        for name, least in AT_LEAST.items():
            if not is_number(getattr(self, name)) or not getattr(self, name) >= least:
                raise ValueError(f"recipe: {name} must be a number of at least {least:g}, not {self._of(name)}.")
        for name, most in AT_MOST.items():
            if getattr(self, name) > most:
                raise ValueError(f"recipe: {name} must be at most {most}, not {self._of(name)}.")
        for name in SHARES:
            if not is_number(getattr(self, name)) or not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"recipe: {name} must be a number from 0 to 1, not {self._of(name)}.")
        self._check_sense()

    def _check_sense(self) -> None:
        if self.method is None and (self.settings or self.keep_rate_start or self.keep_rate_epochs):
            raise ValueError("recipe: settings and a keep-rate warm-up go with a method, and method is None.")
        if self.batch_size % self.accumulate:
            raise ValueError(f"recipe: {self.batch_size} images do not split into {self.accumulate} accumulated parts.")
        if (self.mixup or self.cutmix) and self.batch_size % (2 * self.accumulate):
            raise ValueError("recipe: mixup and cutmix pair images, so each accumulated part must be even.")
        if (self.distillation == "none") != (self.teacher is None):
            raise ValueError("recipe: a teacher and a kind of distillation (soft, hard) go together.")
        if self.teacher_checkpoint is not None and self.teacher is None:
            raise ValueError("recipe: teacher_checkpoint goes with a teacher, and teacher is None.")
        if self.token_labeling and (self.mixup or self.cutmix):
            raise ValueError("recipe: token labeling mixes images itself (MixToken): set mixup 0 and cutmix 0.")
        if self.token_labeling and self.teacher is not None:
            raise ValueError("recipe: token labeling mixes images inside the model, unseen by a teacher: choose one.")
        if self.label_maps is not None and not self.token_labeling:
            raise ValueError("recipe: label_maps go with token labeling: set token_labeling true.")
        if self.ema_decay and self.sharding == "fsdp":
            raise ValueError(
                "recipe: a moving average needs whole weights on each process; with fsdp, set ema_decay 0."
            )

    def _of(self, name: str) -> str:
        return shown(repr(getattr(self, name)))

    @property
    def scaled_lr(self) -> float:
        """The learning rate of this batch size."""
        return self.lr * (1 if self.lr_batch is None else self.batch_size / self.lr_batch)

    @property
    def scaled_min_lr(self) -> float:
        """The final learning rate of this batch size."""
        return self.min_lr * (1 if self.lr_batch is None else self.batch_size / self.lr_batch)

    def override(self, changes: Mapping[str, Any]) -> Recipe:
        """This recipe with other values; texts are read as JSON where the field is not a text."""
        known = {entry.name: entry for entry in fields(self)}
        if not isinstance(changes, Mapping) or not all(isinstance(name, str) for name in changes):
            raise ValueError(f"a recipe is changed by names with values, say {{'epochs': 30}}, not by {changes!r:.80}.")
        for name in changes:
            if name not in known:
                close = difflib.get_close_matches(name, known, n=3) or sorted(known)
                raise ValueError(f"a recipe has no field {name!r}; did you mean {', '.join(close)}?")
        return replace(self, **{name: _read(value, str(known[name].type)) for name, value in changes.items()})

    def as_json(self) -> dict[str, Any]:
        """All fields, as JSON would give them back."""
        return json.loads(json.dumps(asdict(self), default=list))


def load_recipe(path: Path | str) -> Recipe:
    """The RECIPE of a Python file, which is run.

    Args:
        path: the file.

    Returns:
        The recipe.

    Raises:
        FileNotFoundError: where there is no such file.
        ValueError: for a file that is no Python, fails, or defines no RECIPE.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no recipe {path}: a recipe is a Python file that defines RECIPE.")
    specification = importlib.util.spec_from_file_location(f"vitrim_recipe_{path.stem}", path)
    if path.suffix != ".py" or specification is None or specification.loader is None:
        raise ValueError(f"{path} is not a recipe: wanted a Python file that defines RECIPE.")
    module = importlib.util.module_from_spec(specification)
    try:
        specification.loader.exec_module(module)
    except SyntaxError as error:
        raise ValueError(f"{path}, line {error.lineno}, is not Python: {error.msg}.") from error
    except (Exception, SystemExit) as error:  # whatever the file does
        said = str(error).replace("Recipe.__init__() ", "") or type(error).__name__
        kind = "" if isinstance(error, ValueError | TypeError) else f"{type(error).__name__}: "
        raise ValueError(f"{path}: {kind}{said.rstrip('.')}.") from error
    recipe = getattr(module, "RECIPE", None)
    if not isinstance(recipe, Recipe):
        raise ValueError(f"{path} defines no RECIPE of type vitrim.Recipe.")
    return recipe


def changed_fields(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """'lr was 0.1 and is 0.2' for each field that makes another computation."""
    names = sorted((old.keys() | new.keys()) - MACHINE_FIELDS)
    return [
        f"{shown(name, 60)} was {shown(repr(old.get(name)))} and is {shown(repr(new.get(name)))}"
        for name in names
        if old.get(name) != new.get(name)
    ]


def read_text(value: str) -> Any:
    """What a text from the command line says: none, true, a number, a list, else the text itself."""
    if value.lower() in ("none", "null"):
        return None
    try:
        found = json.loads(value.lower() if value in ("True", "False") else value)
    except (ValueError, RecursionError):  # no JSON, or nested without end
        return value
    return tuple(found) if isinstance(found, list) else found


def _read(value: Any, annotation: str) -> Any:
    """A value for one field; texts are read where the field is no text, and checked with the rest."""
    if not isinstance(value, str) or annotation == "str":
        return value
    if annotation.startswith("str"):
        return None if value.lower() in ("none", "null") else value
    return read_text(value)
