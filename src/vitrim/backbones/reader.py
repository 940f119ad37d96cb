"""Finding the blocks of a model, whatever library it comes from, and checking that they are understood."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from ..core.method import ViTSpec
from ..core.stack import BlockReader, TokenStack, check_reader

LIBRARIES = ("timm",)  # each is read by the module of the same name beside this one
SUPPORTED = "timm Vision Transformers (ViT, DeiT, DeiT-III, DINOv2, CLIP and SigLIP vision towers)"


class UnsupportedModel(ValueError):
    """The model, or one of its blocks, cannot be read."""


@dataclass(frozen=True)
class Place:
    """Where a model keeps its blocks."""

    parent: nn.Module
    attribute: str  # the blocks are parent.<attribute>
    walkers: Sequence[str] = ()  # methods of the parent that read features block by block

    def install(self, stack: TokenStack) -> None:
        """Put the stack in place of the blocks; walkers refuse, for they would see tokens move."""
        setattr(self.parent, self.attribute, stack)
        for name in self.walkers:
            self.parent.__dict__[name] = partial(_refuse, name)

    def remove(self, stack: TokenStack) -> None:
        """Put the original blocks back, in the stack's training mode."""
        setattr(self.parent, self.attribute, stack.release())
        for name in self.walkers:
            del self.parent.__dict__[name]


@dataclass(frozen=True)
class Backbone:
    """The blocks of a model and how to read them."""

    library: str
    place: Place
    blocks: nn.Module  # the container, with one child per block
    readers: Sequence[BlockReader]  # one per block
    spec: ViTSpec


def find_stack(model: nn.Module) -> tuple[Place, TokenStack] | None:
    """The TokenStack inside a reduced model and its place; None if the model carries all its tokens."""
    for parent in model.modules():
        for attribute, child in parent.named_children():
            if isinstance(child, TokenStack):
                refusing = [name for name, value in parent.__dict__.items() if _is_refusal(value)]
                return Place(parent, attribute, refusing), child
    return None


@contextmanager
def restored(model: nn.Module) -> Iterator[nn.Module]:
    """The model as it was before reduce_tokens, for as long as the with block runs."""
    found = find_stack(model)
    if found is None:
        yield model
        return
    place, stack = found
    place.remove(stack)
    try:
        yield model
    finally:
        place.install(stack)


def read_backbone(model: nn.Module) -> Backbone:
    """Find and check the blocks of a model, reduced or not. UnsupportedModel says what could not be read."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"a model is a torch.nn.Module, not {type(model).__name__}.")
    for cls in type(model).__mro__:
        library = cls.__module__.partition(".")[0]
        if library in LIBRARIES:
            with restored(model):
                backbone: Backbone = importlib.import_module(f".{library}", __package__).read(model)
                _self_check(backbone)
            return backbone
    raise UnsupportedModel(
        f"{type(model).__module__}.{type(model).__name__} is not a model that vitrim can read. Supported: {SUPPORTED}. "
        "If such a model is inside yours, pass that part: reduce_tokens(model.backbone, ...)."
    )


def version(library: str) -> str:
    """'timm 1.0.31' for the installed version."""
    return f"{library} {importlib.import_module(library).__version__}"


def _self_check(backbone: Backbone) -> None:
    for i, (block, reader) in enumerate(zip(backbone.blocks.children(), backbone.readers, strict=True)):
        exact = next(block.parameters()).dtype in (torch.float32, torch.float64)
        error = check_reader(block, reader, backbone.spec.channels)
        if not error <= (1e-4 if exact else 5e-2):
            raise UnsupportedModel(
                f"{backbone.spec.name}: block {i} ({type(block).__name__}, {version(backbone.library)}) was read "
                f"wrongly: its residual update differs by {error:.1%}. Please report it; the model is unchanged."
            )


def _refuse(name: str, *_: object, **__: object) -> None:
    raise RuntimeError(
        f"{name}() reads features block by block, and in a model with reduced tokens they no longer lie on the patch "
        "grid: use vitrim.trace(model) and unmerge, or restore(model) first."
    )


def _is_refusal(value: object) -> bool:
    return isinstance(value, partial) and value.func is _refuse
