"""Solve for the setting of a method that meets a target of multiply-adds, or the cost of EViT at a keep rate."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple

from torch import Tensor, nn

from ...api import create_method
from ...backbones.reader import read_backbone, restored
from ...core.amount import Scale
from ...core.method import Method, plain_settings
from ...core.scored import WITHOUT_CLS
from ...core.spec import ViTSpec
from ...heads import check_module
from ..macs import count_macs
from .adaptive import method_on_images
from .formula import block_macs, reduced_macs


def method_for_macs(
    model: nn.Module,
    name: str,
    gmacs: float,
    *,
    input_size: tuple[int, int, int] | None = None,
    model_kwargs: Mapping[str, Any] | None = None,
    images_ICHW: Tensor | None = None,
    **settings: Any,
) -> Method:
    """Find the setting of a method whose multiply-adds are closest to a target from below.

    The solution over the amount of the method (`Method.amount`) is exact. The amount is the keep rate, or for ToMe the
    sum of r, which is distributed evenly over the blocks, up to half of the patches in each; the first blocks take the
    remainder.

    Args:
        model: reduced or not. It is not changed.
        name: one of `list_methods()`.
        gmacs: target in 1e9 multiply-adds per image.
        input_size: channels, height and width of the images. None: the model's own.
        model_kwargs: passed to the forward, as in `count_macs`.
        images_ICHW: images for the model. An input-adaptive method (attention_mass, ltmp, merge_alike) needs them: its
            target holds for their mean.
        **settings: other settings of the method.

    Returns:
        The method, for `reduce_tokens`.

    Raises:
        ValueError: the target is out of reach (the message has the range), the method has no amount that a formula can
            solve for, or its amount is among the settings.
    """
    model, name = _model_first("method_for_macs", model, name)
    if isinstance(gmacs, bool) or not isinstance(gmacs, (int, float)) or not 0 < gmacs < math.inf:
        raise ValueError(f"a target must be a positive number of GMACs, not {gmacs!r}.")
    spec, model_macs = _unreduced(model, input_size, model_kwargs or {})
    method = create_method(name, **settings)
    if images_ICHW is not None and method.amount is not None and not method.amount.solved:
        if method.amount.setting in settings:
            raise ValueError(f"{method.name}: a MACs target solves for {method.amount.setting}, so leave it out.")
        return method_on_images(model, method, round(gmacs * 1e9), images_ICHW)
    return _solve(method, spec, model_macs, round(gmacs * 1e9), settings)


def method_for_keep_rate(
    model: nn.Module,
    name: str,
    keep_rate: float,
    *,
    input_size: tuple[int, int, int] | None = None,
    model_kwargs: Mapping[str, Any] | None = None,
    **settings: Any,
) -> Method:
    """Make a method at a keep rate, so that different methods can be compared.

    A method without a keep rate (ToMe) is solved for the multiply-adds of EViT with fusion at this rate, as in
    `method_for_macs`. Without a class token, it is EViT by attention received.

    Args:
        model: reduced or not. It is not changed.
        name: one of `list_methods()`.
        keep_rate: share of the patches that each reducing block keeps; above 0, at most 1.
        input_size: channels, height and width of the images. None: the model's own.
        model_kwargs: passed to the forward, as in `count_macs`.
        **settings: other settings of the method.

    Returns:
        The method, for `reduce_tokens`.

    Raises:
        ValueError: an invalid keep rate or setting, or the method cannot reach these multiply-adds.
    """
    model, name = _model_first("method_for_keep_rate", model, name)
    check_module(model)
    method = create_method(name, **settings)
    if method.has_keep_rate:
        return method.at_keep_rate(keep_rate)
    spec, model_macs = _unreduced(model, input_size, model_kwargs or {})
    evit = create_method("evit", keep_rate=keep_rate, scorer="cls" if spec.has_cls else WITHOUT_CLS)
    return _solve(method, spec, model_macs, min(model_macs, reduced_macs(model_macs, spec, evit)), settings)


def _model_first(function: str, model: Any, name: Any) -> tuple[nn.Module, str]:
    """Return model and name. Accept the old order, name first, with a warning."""
    if isinstance(model, str) and isinstance(name, nn.Module):
        message = f"{function} takes the model first: {function}(model, {model!r}, ...)."
        warnings.warn(message, DeprecationWarning, stacklevel=3)
        return name, model
    return model, name


def _solve(method: Method, spec: ViTSpec, model_macs: int, target: int, settings: dict[str, Any]) -> Method:
    """Return the method with the most multiply-adds that do not exceed the target."""
    scale = _scale(method, spec, settings)

    def at(step: int) -> Method:
        return method.at(scale.value(step))

    neutral, rest = at(scale.high), model_macs - block_macs(spec, None)
    neutral.built_for(spec)  # raises the errors of other settings
    key = (type(method), repr(plain_settings(neutral)), scale.low, scale.high, spec, rest)
    if key not in _KNOWN:
        _KNOWN[key] = tuple(_plateaus(scale, lambda step: rest + block_macs(spec, at(step))))
    plateaus = _KNOWN[key]
    lowest = min(each.macs for each in plateaus)
    if not lowest <= target <= model_macs:
        raise ValueError(
            f"{method.name} cannot reduce {spec.name} to {target / 1e9:.4g} GMACs: it reaches {lowest / 1e9:.4g} to "
            f"{model_macs / 1e9:.4g} GMACs."
        )
    best = max((each for each in plateaus if each.macs <= target), key=lambda each: (each.macs, each.last))
    return at(_roundest(best.first, best.last) if scale.prefers_round else best.last)


def _scale(method: Method, spec: ViTSpec, settings: dict[str, Any]) -> Scale:
    """Return the values of the amount. Raises ValueError if there is none to solve for, or it is set already."""
    amount = method.amount
    if amount is None:
        raise ValueError(f"{method.name}: no single setting determines how much it reduces, so none can be solved for.")
    if not amount.solved:
        raise ValueError(
            f"{method.name}: no formula gives the cost of its {amount.setting}, so it cannot be solved for "
            f"multiply-adds without images: set it, for example to {amount.usual:g}, or in Python pass images_ICHW."
        )
    if amount.setting in settings:
        raise ValueError(f"{method.name}: a MACs target solves for {amount.setting}, so it cannot be set too.")
    return amount.scale(spec)


class Plateau(NamedTuple):
    """Consecutive values with the same cost."""

    first: int
    last: int
    macs: int


_KNOWN: dict[Hashable, tuple[Plateau, ...]] = {}  # for other targets: finding them takes seconds


def _plateaus(scale: Scale, cost: Callable[[int], int]) -> Iterator[Plateau]:
    """Yield all plateaus, without values that the model cannot take.

    They are found by bisection: values between two of the same cost have that cost too.
    """

    @cache
    def macs(value: int) -> int | None:
        try:
            return cost(value)
        except ValueError:
            return None

    def ends(low: int, high: int) -> Iterator[int]:
        if macs(low) == macs(high):
            return
        if high - low == 1:
            yield low
            return
        middle = (low + high) // 2
        yield from ends(low, middle)
        yield from ends(middle, high)

    first = scale.low
    for last in (*ends(scale.low, scale.high), scale.high):
        value = macs(last)
        if value is not None:
            yield Plateau(first, last, value)
        first = last + 1


def _roundest(first: int, last: int) -> int:
    """Return the value from first to last with the most trailing zeros, and of those the largest."""
    steps = (10**digits for digits in range(6, -1, -1))
    return next(last // step * step for step in steps if last // step * step >= first)


def _unreduced(
    model: nn.Module, input_size: tuple[int, int, int] | None, model_kwargs: Mapping[str, Any]
) -> tuple[ViTSpec, int]:
    """Return the spec of a model, with the patches that enter its first block, and its unreduced multiply-adds."""
    with restored(model):
        backbone = read_backbone(model)
        entering: list[int] = []
        first = next(backbone.blocks.children())
        hook = first.register_forward_pre_hook(lambda _, args: entering.append(args[0].shape[1]))
        try:
            macs = count_macs(model, input_size, **model_kwargs)
        finally:
            hook.remove()
    spec = backbone.spec
    if not spec.first_reducible_layer:  # unreadable blocks take a fixed number of tokens
        spec = replace(spec, num_patches=entering[0] - spec.num_prefix)
    return spec, macs
