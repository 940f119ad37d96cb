"""The model that a recipe starts from: built for the data's classes and resolution, with the weights it names.

EViT's oracle initialisation is this with the checkpoint of a fully trained model of the same architecture, and its
training at a higher resolution is this with another img_size: position embeddings are resampled.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..api import method_from, reduce_tokens
from ..load import build_model, load_model, read_checkpoint, resample_positions
from .recipe import Recipe

WNID = re.compile(r"n\d{8}")


def start_model(recipe: Recipe, class_folders: Sequence[str]) -> tuple[nn.Module, str]:
    """The model of a recipe with its tokens reduced, in training mode, and a line on where its weights come from."""
    settings: dict[str, Any] = {"num_classes": recipe.num_classes or len(class_folders)}
    settings |= {"drop_path_rate": recipe.drop_path} if recipe.drop_path else {}
    settings |= {"proj_drop_rate": recipe.dropout} if recipe.dropout else {}
    model = build_model(recipe.model, img_size=recipe.img_size, **settings)
    said = "random weights"
    if recipe.checkpoint is not None:
        said = _load(model, recipe, class_folders)
    if recipe.method is not None:
        reduce_tokens(model, method_from(recipe.method, **recipe.settings))
    if recipe.grad_checkpointing:
        model.set_grad_checkpointing()  # type: ignore[operator]
    return model.train(), said


def start_teacher(recipe: Recipe, class_folders: Sequence[str]) -> nn.Module | None:
    """The teacher of a recipe, with all its tokens; its head is adapted like the student's."""
    if recipe.teacher is None:
        return None
    teacher = build_model(
        recipe.teacher, img_size=recipe.img_size, num_classes=recipe.num_classes or len(class_folders)
    )
    start = recipe.override({"model": recipe.teacher, "checkpoint": recipe.teacher_checkpoint or "pretrained"})
    _load(teacher, start, class_folders)
    return teacher


def _load(model: nn.Module, recipe: Recipe, class_folders: Sequence[str]) -> str:
    name = str(recipe.checkpoint)
    if name == "pretrained":
        state = load_model(recipe.model, img_size=recipe.img_size).state_dict()
    else:
        state = read_checkpoint(Path(name))
    if recipe.img_size is not None:
        state = resample_positions(model, state)
    own = model.state_dict()
    num_classes = recipe.num_classes or len(class_folders)
    heads = [key for key in own if key in state and _differs_in_classes(own[key], state[key], num_classes)]
    wrong = sorted(own.keys() ^ state.keys())
    wrong += [key for key in own if key in state and own[key].shape != state[key].shape and key not in heads]
    if wrong:
        raise ValueError(
            f"{name} is not a checkpoint of {recipe.model}: {len(wrong)} tensors are missing, unknown or of another "
            f"shape, such as {wrong[0]}."
        )
    rows = _rows(recipe, class_folders, len(state[heads[0]])) if heads else None
    for key in heads:
        state[key] = own[key] if rows is None else state[key][rows]
    model.load_state_dict(state)
    if not heads:
        return f"weights of {name}"
    return f"weights of {name}, " + ("with a new head" if rows is None else "its head kept for the data's classes")


def _differs_in_classes(own: Tensor, other: Tensor, num_classes: int) -> bool:
    """Whether two tensors of a classifier differ in the number of classes alone."""
    return own.dim() > 0 and len(own) == num_classes != len(other) and own.shape[1:] == other.shape[1:]


def _rows(recipe: Recipe, class_folders: Sequence[str], num_rows: int) -> Tensor | None:
    """Rows of an ImageNet classifier that are the data's classes, in their order; None to start the head anew."""
    from timm.data import ImageNetInfo, infer_imagenet_subset

    subset = infer_imagenet_subset({"num_classes": num_rows})
    if recipe.head == "new" or subset is None or not all(map(WNID.fullmatch, class_folders)):
        return None
    info: Any = ImageNetInfo(subset)  # untyped
    known = {wnid: i for i, wnid in enumerate(info.label_names())}
    rows = [known.get(name, -1) for name in class_folders]
    return None if -1 in rows else torch.tensor(rows)
