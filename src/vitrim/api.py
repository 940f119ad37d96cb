"""Reduce the tokens of a model in place, and undo it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from torch import nn

from .backbones.reader import find_stack, read_backbone
from .core.exits import Exits
from .core.method import Method
from .core.stack import TokenStack
from .methods import create_method as create_method
from .methods import list_methods as list_methods
from .methods import resolve_method

M = TypeVar("M", bound=nn.Module)


def reduce_tokens(
    model: M,
    method: Method | str,
    *,
    exits: Exits | Sequence[int] | None = None,
    pools_patches: bool | None = None,
    **settings: Any,
) -> M:
    """Make the model carry fewer tokens, in place. Applying again replaces the method.

    Args:
        model: a Vision Transformer of timm, torchvision, transformers or open_clip, or one with such blocks.
        method: a method, such as `EViT(keep_rate=0.7)`, the name of one, "auto", or a folder of `vitrim tune`.
        exits: exit heads to train along with any method, `Exits()`. With the name "metr": the blocks of its exits.
        pools_patches: whether the part after the blocks pools patch tokens. If so, each patch comes out with the
            features of its token. None follows the model's head, and means True without a classifier.
        **settings: the method's settings, if it is given by name.

    Returns:
        The same model.

    Raises:
        UnsupportedModel: If a block cannot be read.
        ValueError: If the method does not fit the model. The model is then unchanged.
    """
    method = resolve_method(method, exits, settings)
    backbone = read_backbone(model).pooling(pools_patches)
    stack = TokenStack(backbone.blocks, backbone.readers, method.built_for(backbone.spec), backbone.spec)
    restore(model)
    backbone.location.install(stack)
    return model


def method_of(model: nn.Module) -> Method | None:
    """The method at work in a model.

    Args:
        model: reduced or not.

    Returns:
        The method, with every setting resolved for this model. None if the model is not reduced.
    """
    found = find_stack(model)
    return None if found is None else found.stack.method


def restore(model: M) -> M:
    """Take the reduction out, in place. A model that is not reduced stays as it is.

    Args:
        model: reduced or not.

    Returns:
        The same model, bit-identical to what it was.

    Raises:
        TypeError: If `model` is not a model.
    """
    found = find_stack(model)
    if found is not None:
        found.location.remove(found.stack)
    return model
