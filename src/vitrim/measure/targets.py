"""Methods by what they cost: the setting that meets a target of multiply-adds, or the cost of EViT at a keep rate."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple

from torch import nn

from ..api import create_method
from ..backbones.reader import read_backbone, restored
from ..core.amount import Scale
from ..core.method import Method
from ..core.scored import WITHOUT_CLS
from ..core.spec import ViTSpec
from ..heads import check_module
from .macs import count_macs, reduced_macs


def method_for_macs(
    model: nn.Module,
    name: str,
    gmacs: float,
    *,
    input_size: tuple[int, int, int] | None = None,
    model_kwargs: Mapping[str, Any] | None = None,
    **settings: Any,
) -> Method:
    """The method of that name that comes closest to a number of multiply-adds from below.

    Solved exactly over the method's amount (`Method.amount`): the keep rate, or for ToMe the sum of r. That is
    distributed over the blocks as evenly as whole numbers and its limit of half the patches allow, the first blocks
    taking the remainder.

    Args:
        model: reduced or not; it stays as it is.
        name: one of `list_methods()`.
        gmacs: 1e9 multiply-adds, of one image.
        input_size: channels, height and width of the images; None takes the model's own.
        model_kwargs: of the model's forward, as for `count_macs`.
        **settings: the method's others.

    Returns:
        The method, for `reduce_tokens`.

    Raises:
        ValueError: with the reachable range if gmacs is above the unreduced model or below all settings; for a method
            without an amount that a formula can solve for, or one whose amount is among the settings.
    """
    model, name = _model_first("method_for_macs", model, name)
    if isinstance(gmacs, bool) or not isinstance(gmacs, (int, float)) or not 0 < gmacs < math.inf:
        raise ValueError(f"a target is a positive number of GMACs, not {gmacs!r}.")
    spec, model_macs = _unreduced(model, input_size, model_kwargs or {})
    return _solve(create_method(name, **settings), spec, model_macs, round(gmacs * 1e9), settings)


def method_for_keep_rate(
    model: nn.Module,
    name: str,
    keep_rate: float,
    *,
    input_size: tuple[int, int, int] | None = None,
    model_kwargs: Mapping[str, Any] | None = None,
    **settings: Any,
) -> Method:
    """The method of that name at a keep rate, so that methods can be compared at the same one.

    A method without keep rate (ToMe) gets the setting that comes closest from below to the multiply-adds of EViT with
    fusion at that rate, as in `method_for_macs`; of EViT by attention received where there is no class token.

    Args:
        model: reduced or not; it stays as it is.
        name: one of `list_methods()`.
        keep_rate: share of the patches that stay in each reducing block; above 0, at most 1.
        input_size: channels, height and width of the images; None takes the model's own.
        model_kwargs: of the model's forward, as for `count_macs`.
        **settings: the method's others.

    Returns:
        The method, for `reduce_tokens`.

    Raises:
        ValueError: for a keep rate or a setting that is none, or where the method cannot reach those multiply-adds.
    """
    model, name = _model_first("method_for_keep_rate", model, name)
    check_module(model)
    method = create_method(name, **settings)
    if method.has_keep_rate:
        return method.at_keep_rate(keep_rate)
    spec, model_macs = _unreduced(model, input_size, model_kwargs or {})
    evit = create_method("evit", keep_rate=keep_rate, scorer="cls" if spec.has_cls else WITHOUT_CLS)
    return _solve(method, spec, model_macs, min(model_macs, reduced_macs(model_macs, spec, evit)), settings)


def _model_first(what: str, model: Any, name: Any) -> tuple[nn.Module, str]:
    """Model and name in this order; the other one, which was the order once, works with a warning."""
    if isinstance(model, str) and isinstance(name, nn.Module):
        told = f"{what} takes the model first: {what}(model, {model!r}, ...)."
        warnings.warn(told, DeprecationWarning, stacklevel=3)
        return name, model
    return model, name


def _solve(method: Method, spec: ViTSpec, model_macs: int, target: int, settings: dict[str, Any]) -> Method:
    """The method whose multiply-adds are the largest that do not exceed the target."""
    scale = _scale(method, spec, settings)

    def at(step: int) -> Method:
        return method.at(scale.value(step))

    at(scale.high).built_for(spec)  # what is wrong with other settings is said here
    runs = list(_runs(scale, lambda step: reduced_macs(model_macs, spec, at(step))))
    lowest = min(run.macs for run in runs)
    if not lowest <= target <= model_macs:
        raise ValueError(
            f"{method.name} cannot bring {spec.name} to {target / 1e9:.4g} GMACs: it reaches {lowest / 1e9:.4g} to "
            f"{model_macs / 1e9:.4g} GMACs."
        )
    best = max((run for run in runs if run.macs <= target), key=lambda run: (run.macs, run.last))
    return at(_roundest(best.first, best.last) if scale.prefers_round else best.last)


def _scale(method: Method, spec: ViTSpec, settings: dict[str, Any]) -> Scale:
    """What there is to choose from; ValueError where the method has nothing to solve for, or it is set already."""
    amount = method.amount
    if amount is None:
        raise ValueError(f"{method.name}: no single setting says how much it reduces, so none can be solved for.")
    if not amount.solved:
        raise ValueError(
            f"{method.name}: no formula tells what a {amount.setting} costs, so it cannot be solved for multiply-adds: "
            f"set it, to {amount.usual:g} say."
        )
    if amount.setting in settings:
        raise ValueError(f"{method.name}: {amount.setting} is what a MACs target solves for, so it cannot be set too.")
    return amount.scale(spec)


class Run(NamedTuple):
    """A stretch of values that cost the same."""

    first: int
    last: int
    macs: int


def _runs(scale: Scale, cost: Callable[[int], int]) -> Iterator[Run]:
    """All stretches of values with the same cost, without those that the model cannot take.

    They are found by halving, not by a look at every value: what costs the same at both ends does so in between.
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
            yield Run(first, last, value)
        first = last + 1


def _roundest(first: int, last: int) -> int:
    """The value from first to last with the most zeros at its end, and of those the largest."""
    steps = (10**digits for digits in range(6, -1, -1))
    return next(last // step * step for step in steps if last // step * step >= first)


def _unreduced(
    model: nn.Module, input_size: tuple[int, int, int] | None, model_kwargs: Mapping[str, Any]
) -> tuple[ViTSpec, int]:
    """The facts about a model, with the patches that enter its first block, and its multiply-adds unreduced."""
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
    if not spec.first_reducible_layer:  # such blocks take one number of patches, and may mean others by their tokens
        spec = replace(spec, num_patches=entering[0] - spec.num_prefix)
    return spec, macs
