"""Build the model of a recipe for the data's classes and resolution, with its initial weights.

For EViT's oracle initialisation, name the checkpoint of a fully trained model of the same architecture. For its
training at a higher resolution, set img_size; position embeddings are resampled. No weights are frozen. EViT
fine-tunes in eval mode, which here means drop_path 0 and dropout 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..api import create_method, reduce_tokens
from ..core.block_view import WEIGHTS
from ..core.exits import TRAINING_ONLY
from ..loading.build import build_model, load_model
from ..loading.folder import WEIGHTS_FILE
from ..loading.libraries import adapting
from ..loading.weights import fit, read_checkpoint
from ..measure.class_names import imagenet_names
from .learned import aimed, freeze
from .recipe import Recipe

PRETRAINED = "pretrained"  # the value of checkpoint that means timm's own weights
NEW_HEAD = "a new head"  # the end of the line about the weights if the classifier is random


@dataclass(frozen=True)
class Start:
    """The weights to load into a model, and the classes of the data."""

    model: str
    checkpoint: str
    img_size: int | None
    num_classes: int
    class_folders: Sequence[str]
    new_head: bool = False

    def rows(self, num_rows: int) -> Tensor | None:
        """The rows of an ImageNet classifier for the data's classes, in their order; None if they are not known."""
        known = imagenet_names(num_rows)
        if known is None or len(self.class_folders) != self.num_classes:
            return None
        rows = [known.wordnet_ids.get(name, -1) for name in self.class_folders]
        return None if -1 in rows else torch.tensor(rows)


def start_model(recipe: Recipe, class_folders: Sequence[str]) -> tuple[nn.Module, str]:
    """Return the reduced model of a recipe, in training mode, and a line on where its weights come from."""
    num_classes = recipe.num_classes or len(class_folders)
    model = _build(recipe, num_classes)
    if recipe.method is not None:
        reduce_tokens(model, aimed(create_method(recipe.method, **recipe.settings), model, recipe.gmacs))
    origin = "random weights"
    if recipe.checkpoint is not None:
        new = recipe.head == "new"
        origin = _load(
            model, Start(recipe.model, recipe.checkpoint, recipe.img_size, num_classes, class_folders, new_head=new)
        )
    if recipe.frozen:
        freeze(model)
    if recipe.grad_checkpointing:
        model.set_grad_checkpointing()  # type: ignore[operator]
    return model.train(), origin


def start_teacher(recipe: Recipe, class_folders: Sequence[str], student: nn.Module) -> nn.Module | None:
    """Return the teacher of a recipe, with all its tokens. It must have the student's classes and normalisation."""
    if recipe.teacher is None:
        return None
    num_classes = recipe.num_classes or len(class_folders)
    checkpoint, size = recipe.teacher_checkpoint or PRETRAINED, recipe.img_size
    try:
        teacher = build_model(recipe.teacher, img_size=size, num_classes=num_classes)
    except ValueError as error:
        if "'img_size'" not in str(error):
            raise
        size = None  # a convolutional network takes images of any size
        teacher = build_model(recipe.teacher, num_classes=num_classes)
    origin = _load(teacher, Start(recipe.teacher, checkpoint, size, num_classes, class_folders))
    if origin.endswith(NEW_HEAD):
        raise ValueError(
            f"the teacher {recipe.teacher} was not trained on these {num_classes} classes: set teacher_checkpoint to "
            "weights trained on them."
        )
    for entry in ("mean", "std"):
        theirs, ours = ((getattr(each, "pretrained_cfg", None) or {}).get(entry) for each in (teacher, student))
        if theirs != ours:
            raise ValueError(
                f"the teacher {recipe.teacher} needs images with {entry} {theirs}, and the model with {ours}: choose a "
                "teacher with the same normalisation."
            )
    return teacher


def _build(recipe: Recipe, num_classes: int) -> nn.Module:
    """Build the recipe's model with random weights; ValueError if it has no drop_path or dropout."""
    from ..models.lvvit import LVViT

    settings: dict[str, Any] = {"num_classes": num_classes}
    settings |= {"drop_path_rate": recipe.drop_path} if recipe.drop_path else {}
    if recipe.dropout:  # of positions, attention outputs and MLPs; drop_rate of timm's ViT is that of the head
        with torch.device("meta"):  # only its class is needed
            plain = build_model(recipe.model, img_size=recipe.img_size)
        names = ("drop_rate",) if isinstance(plain, LVViT) else ("pos_drop_rate", "proj_drop_rate")
        settings |= dict.fromkeys(names, recipe.dropout)
    try:
        return build_model(recipe.model, img_size=recipe.img_size, **settings)
    except TypeError as error:
        raise ValueError(f"recipe: {recipe.model} does not take {', '.join(settings)}: {error}.") from error


def _load(model: nn.Module, start: Start) -> str:
    """Load the weights into the model. Weights of the method may be missing; all others must fit."""
    origin = f"weights of {start.checkpoint}"
    heads = ""

    def adapt(model: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
        nonlocal heads
        found = state if start.checkpoint == PRETRAINED else adapting(start.img_size)(model, state)
        state, heads = _with_classes(model, dict(found), start)
        return state

    state, source = _read(start)
    if fit(model, state, start.model, source, keep="model", adapt=adapt, may_be_new=True):
        origin += ", new weights of the method"
    return f"{origin}{heads}"


def _read(start: Start) -> tuple[Mapping[str, Tensor], Path]:
    """Read the initial weights; return them and their path."""
    path = Path(start.checkpoint)
    if start.checkpoint == PRETRAINED:
        return load_model(start.model, img_size=start.img_size).state_dict(), path
    return read_checkpoint(path / WEIGHTS_FILE if path.is_dir() else path), path


def _with_classes(model: nn.Module, state: dict[str, Tensor], start: Start) -> tuple[dict[str, Tensor], str]:
    """Return the state with heads for the data's classes, by selecting rows or with new ones, and a note on that."""
    own = model.state_dict()
    heads = [key for key in _classifiers(model) if key in state]
    same = all(len(state[key]) == start.num_classes for key in heads)
    rows = None if start.new_head or same or not heads else start.rows(len(state[heads[0]]))
    if start.new_head or (rows is None and not same):
        return state | {key: own[key] for key in heads}, f", {NEW_HEAD}"
    if rows is None:
        return state, ""
    few = {key: state[key][rows] for key in heads if len(state[key]) != start.num_classes}
    return state | few, ", its head's rows for these classes"


def _classifiers(model: nn.Module) -> Iterator[str]:
    """The keys of tensors whose first axis is the classes: the model's heads and METR's exits."""
    cfg = getattr(model, "pretrained_cfg", None) or {}
    names = cfg.get("classifier") or "head"
    found = [names] if isinstance(names, str) else list(names)
    for name, module in model.named_modules():
        if name.endswith(f".{WEIGHTS}.{TRAINING_ONLY}"):
            last = [child for child, _ in module.named_children()][-1]
            found.append(f"{name}.{last}")
    return (key for key in model.state_dict() if key.rpartition(".")[0] in found)
