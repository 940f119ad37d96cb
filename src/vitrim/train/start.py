"""The model that a recipe starts from: built for the data's classes and resolution, with the weights it names.

EViT's oracle initialisation is this with the checkpoint of a fully trained model of the same architecture, and its
training at a higher resolution is this with another img_size: position embeddings are resampled. Nothing is frozen.
EViT's fine-tuning keeps the model in eval mode, which here is drop_path 0 and dropout 0.
"""

from __future__ import annotations

import re
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
from ..loading.positions import adapting
from ..loading.weights import fit, read_checkpoint
from .recipe import Recipe

PRETRAINED = "pretrained"  # the checkpoint that stands for timm's own weights
WEIGHTS_FILE = "model.safetensors"  # in a folder of save_pretrained, and in a checkpoint of a run
NEW_HEAD = "a new head"  # how the line on where the weights come from ends, if the classifier is random
WNID = re.compile(r"n\d{8}")


@dataclass(frozen=True)
class Start:
    """Which weights go into a model, and for which classes."""

    model: str
    checkpoint: str
    img_size: int | None
    num_classes: int
    class_folders: Sequence[str]
    new_head: bool = False

    def rows(self, num_rows: int) -> Tensor | None:
        """Rows of an ImageNet classifier that are the data's classes, in their order; None if they are not known."""
        from timm.data import ImageNetInfo, infer_imagenet_subset

        subset = infer_imagenet_subset({"num_classes": num_rows})
        named = len(self.class_folders) == self.num_classes and all(map(WNID.fullmatch, self.class_folders))
        if subset is None or not named:
            return None
        info: Any = ImageNetInfo(subset)  # untyped
        known = {wnid: i for i, wnid in enumerate(info.label_names())}
        rows = [known.get(name, -1) for name in self.class_folders]
        return None if -1 in rows else torch.tensor(rows)


def start_model(recipe: Recipe, class_folders: Sequence[str]) -> tuple[nn.Module, str]:
    """The model of a recipe with its tokens reduced, in training mode, and a line on where its weights come from."""
    num_classes = recipe.num_classes or len(class_folders)
    model = _build(recipe, num_classes)
    if recipe.method is not None:
        reduce_tokens(model, create_method(recipe.method, **recipe.settings))
    said = "random weights"
    if recipe.checkpoint is not None:
        new = recipe.head == "new"
        said = _load(
            model, Start(recipe.model, recipe.checkpoint, recipe.img_size, num_classes, class_folders, new_head=new)
        )
    if recipe.grad_checkpointing:
        model.set_grad_checkpointing()  # type: ignore[operator]
    return model.train(), said


def start_teacher(recipe: Recipe, class_folders: Sequence[str], student: nn.Module) -> nn.Module | None:
    """The teacher of a recipe, with all its tokens; it sees the student's images, and must know the same classes."""
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
    said = _load(teacher, Start(recipe.teacher, checkpoint, size, num_classes, class_folders))
    if said.endswith(NEW_HEAD):
        raise ValueError(
            f"the teacher {recipe.teacher} was not trained on these {num_classes} classes: set teacher_checkpoint to "
            "weights that were."
        )
    for entry in ("mean", "std"):
        theirs, ours = ((getattr(each, "pretrained_cfg", None) or {}).get(entry) for each in (teacher, student))
        if theirs != ours:
            raise ValueError(
                f"the teacher {recipe.teacher} wants images of {entry} {theirs} and the model of {ours}: choose a "
                "teacher that was trained on images normalised alike."
            )
    return teacher


def _build(recipe: Recipe, num_classes: int) -> nn.Module:
    """The recipe's model with random weights; ValueError where it does not take drop_path or dropout."""
    from ..models.lvvit import LVViT

    settings: dict[str, Any] = {"num_classes": num_classes}
    settings |= {"drop_path_rate": recipe.drop_path} if recipe.drop_path else {}
    if recipe.dropout:  # of positions, attention's output and MLPs; timm's ViT means the head by drop_rate
        with torch.device("meta"):  # asked for its class, not for its weights
            plain = build_model(recipe.model, img_size=recipe.img_size)
        names = ("drop_rate",) if isinstance(plain, LVViT) else ("pos_drop_rate", "proj_drop_rate")
        settings |= dict.fromkeys(names, recipe.dropout)
    try:
        return build_model(recipe.model, img_size=recipe.img_size, **settings)
    except TypeError as error:
        raise ValueError(f"recipe: {recipe.model} does not take {', '.join(settings)}: {error}.") from error


def _load(model: nn.Module, start: Start) -> str:
    """Put the weights into the model; what a method learns may be new, all else must fit."""
    said = f"weights of {start.checkpoint}"
    heads = ""

    def adapt(model: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
        nonlocal heads
        found = state if start.checkpoint == PRETRAINED else adapting(start.img_size)(model, state)
        state, heads = _with_classes(model, dict(found), start)
        return state

    state, source = _read(start)
    if fit(model, state, start.model, source, keep="model", adapt=adapt, may_be_new=True):
        said += ", new weights of the method"
    return f"{said}{heads}"


def _read(start: Start) -> tuple[Mapping[str, Tensor], Path]:
    """The weights to start from, and where they are."""
    path = Path(start.checkpoint)
    if start.checkpoint == PRETRAINED:
        return load_model(start.model, img_size=start.img_size).state_dict(), path
    return read_checkpoint(path / WEIGHTS_FILE if path.is_dir() else path), path


def _with_classes(model: nn.Module, state: dict[str, Tensor], start: Start) -> tuple[dict[str, Tensor], str]:
    """The state with heads of the data's classes, and a word on them: rows of its own, or new ones."""
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
    """The tensors whose first axis is the classes: of the model's heads and of METR's exits."""
    cfg = getattr(model, "pretrained_cfg", None) or {}
    names = cfg.get("classifier") or "head"
    found = [names] if isinstance(names, str) else list(names)
    for name, module in model.named_modules():
        if name.endswith(f".{WEIGHTS}.{TRAINING_ONLY}"):
            last = [child for child, _ in module.named_children()][-1]
            found.append(f"{name}.{last}")
    return (key for key in model.state_dict() if key.rpartition(".")[0] in found)
