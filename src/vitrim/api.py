"""Reduce the tokens of a model in place, and undo it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeVar, cast

from torch import nn

from .backbones.reader import Backbone, find_stack, read_backbone
from .core.exits import Exits
from .core.method import Method
from .core.stack import TokenStack
from .methods import create_method, makers

M = TypeVar("M", bound=nn.Module)


def list_methods() -> list[str]:
    """Names that `create_method` and `reduce_tokens` understand."""
    return sorted(makers())


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
        method: a method (`EViT(keep_rate=0.7)`) or its name, then with its settings.
        exits: heads to train along, `Exits()`, beside any method; with the name "metr", which has them, their blocks.
        pools_patches: whether what comes after the blocks averages patch tokens, or pools them otherwise. Each patch
            then comes out with the features of the token that holds it, so that a merged token counts as all its
            patches. None: as the library's own head does; a model without classes hands its tokens to code of yours,
            and counts as True.
        **settings: of a method that is given by its name.

    Returns:
        The same model.

    Raises:
        UnsupportedModel: where a block cannot be read.
        ValueError: where the method does not fit the model. The model is then left as it was.
    """
    method = _made(method, exits, settings)
    backbone = _pooling(read_backbone(model), pools_patches)
    stack = TokenStack(backbone.blocks, backbone.readers, method.built_for(backbone.spec), backbone.spec)
    restore(model)
    backbone.place.install(stack)
    return model


def _made(method: Method | str, exits: Exits | Sequence[int] | None, settings: dict[str, Any]) -> Method:
    """The method, with the exits beside it; ValueError for what is none."""
    if isinstance(method, str):
        return create_method(method, **settings, **({} if exits is None else {"exits": exits}))
    if settings:
        raise ValueError(f"settings {sorted(settings)} go with a method's name; this method is already made: {method}.")
    if not isinstance(method, Method):
        raise ValueError(
            f"method must be a method such as EViT(keep_rate=0.7), or one of the names {', '.join(list_methods())}, "
            f"not a {type(method).__name__}."
        )
    if exits is None:
        return method
    if method.exits is not None:
        raise ValueError(f"this method has exits beside it already: {method}.")
    return replace(method, exits=cast("Exits", exits))


def method_of(model: nn.Module) -> Method | None:
    """The method at work in a model.

    Args:
        model: reduced or not.

    Returns:
        The method, every setting resolved for this model; None where the model carries all its tokens.
    """
    found = find_stack(model)
    return None if found is None else found.stack.method


def _pooling(backbone: Backbone, pools_patches: bool | None) -> Backbone:
    """The backbone with the caller's word on what comes after the blocks."""
    spec = backbone.spec
    if pools_patches is not None and not isinstance(pools_patches, bool):
        raise ValueError(f"pools_patches is True, False or None, not {pools_patches!r}.")
    if pools_patches is False and spec.pools_patches and spec.num_classes > 0:
        raise ValueError(f"the head of {spec.name} pools patch tokens: leave pools_patches out.")
    return backbone if pools_patches is None else replace(backbone, spec=replace(spec, pools_patches=pools_patches))


def restore(model: M) -> M:
    """Take the reduction out, in place. Twice does no harm.

    Args:
        model: reduced or not.

    Returns:
        The same model, bit-identical to what it was.

    Raises:
        TypeError: for what is no model.
    """
    found = find_stack(model)
    if found is not None:
        found.place.remove(found.stack)
    return model
