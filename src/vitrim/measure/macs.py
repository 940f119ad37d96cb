"""Multiply-adds: counted on a real forward, predicted by formula, and solved for.

Counted are matrix products, convolutions and both products of attention (torch's FlopCounterMode / 2), as in the
papers: DeiT-T 1.26 G, DeiT-S 4.60 G, DeiT-B 17.6 G at 224 pixels. N is tokens, the prefix included.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..api import method_from
from ..backbones.reader import read_backbone, restored
from ..core.method import Method, ViTSpec, check_opaque
from .evaluate import evaluating, input_size_of
from .mac_counter import counting

RATE_STEPS = 100_000  # keep rates are exact to five decimals, see schedule.ceil_share


def count_macs(
    model: nn.Module, input_size: tuple[int, int, int] | None = None, *, images_ICHW: Tensor | None = None
) -> int:
    """Multiply-adds for one image, counted on a forward of a random one.

    input_size: channels, height, width; None for the size the model was built for. images_ICHW: images to count on,
    each alone, for the mean over them; needed where a model's work depends on what it sees.
    """
    size = input_size_of(model) if input_size is None else input_size
    weight = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    if images_ICHW is None:
        images_ICHW = torch.randn(1, *size)
    if len(images_ICHW) == 0:
        raise ValueError("multiply-adds are counted on at least one image.")
    counts = [_count(model, image_1CHW.to(weight.device, weight.dtype)) for image_1CHW in torch.split(images_ICHW, 1)]
    return round(sum(counts) / len(counts))


def _count(model: nn.Module, x_1CHW: Tensor) -> int:
    with evaluating(model), counting() as counter:
        model(x_1CHW)
    return int(counter.get_total_flops()) // 2


def token_counts(spec: ViTSpec, method: Method | None, num_patches: int | None = None) -> tuple[int, ...]:
    """Tokens that leave each block, prefix included, when num_patches enter the first (None: the spec's).

    Opaque blocks count with what the last of them lets out, though they may carry more.
    """
    return tuple(spec.num_prefix + patches for _, patches in _patch_counts(spec, method, num_patches))


def block_macs(spec: ViTSpec, method: Method | None, num_patches: int | None = None) -> int:
    """Multiply-adds of all blocks, and of a head on every token, by formula, for one image; None reduces nothing.

    What the reduction itself costs is included.
    """
    method = None if method is None else method.build(spec)
    counts = list(_patch_counts(spec, method, num_patches))
    total = spec.opaque_macs + counts[-1][1] * spec.head_macs
    for layer, (before, after) in enumerate(counts):
        if layer < spec.opaque_layers:
            continue
        num_in, num_out = spec.num_prefix + before, spec.num_prefix + after
        total += num_in * spec.attention_macs + 2 * num_in**2 * spec.attention_channels + num_out * spec.mlp_macs
        total += 0 if method is None else method.extra_macs(layer, before, spec)
    return total


def reduced_macs(model_macs: int, spec: ViTSpec, method: Method, num_patches: int | None = None) -> int:
    """Multiply-adds of a model under a method, from those counted without: only what `block_macs` counts changes."""
    return model_macs - block_macs(spec, None, num_patches) + block_macs(spec, method, num_patches)


def method_for_macs(name: str, model: nn.Module, gmacs: float, **settings: Any) -> Method:
    """The method of that name that comes closest to gmacs (1e9 multiply-adds an image) from below.

    Solved exactly over one number: the keep rate, or for ToMe the sum of r, spread over the blocks as evenly as whole
    numbers and its limit of half the patches allow, the first blocks taking the remainder. settings: the others.
    ValueError with the reachable range if gmacs is above the unreduced model or below all settings.
    """
    if not 0 < gmacs < math.inf:
        raise ValueError(f"a target is a positive number of GMACs, not {gmacs}.")
    spec = read_backbone(model).spec
    return _solve(method_from(name, **settings), spec, _unreduced_macs(model), round(gmacs * 1e9), settings)


def method_for_keep_rate(name: str, model: nn.Module, keep_rate: float, **settings: Any) -> Method:
    """The method of that name at a keep rate, so that methods can be compared at the same one.

    A method without keep rate (ToMe) gets the setting that comes closest from below to the multiply-adds of EViT with
    fusion at that rate, as in `method_for_macs`.
    """
    method = method_from(name, **settings)
    if method.has_keep_rate:
        return method.at_keep_rate(keep_rate)
    spec, model_macs = read_backbone(model).spec, _unreduced_macs(model)
    evit = method_from("evit", keep_rate=keep_rate, scorer="cls" if spec.has_cls else "norm")
    return _solve(method, spec, model_macs, min(model_macs, reduced_macs(model_macs, spec, evit)), settings)


@dataclass(frozen=True)
class Knob:
    """The one setting that is solved for, as a whole number: the larger, the more tokens are kept."""

    setting: str
    make: Callable[[int], Method]
    low: int
    high: int


def _knob(method: Method, spec: ViTSpec) -> Knob:
    if method.has_keep_rate:
        return Knob("keep_rate", lambda k: method.at_keep_rate(k / RATE_STEPS), 1, RATE_STEPS)
    tome: Any = method
    if any(field.name == "r" for field in fields(tome)):
        most = (spec.depth - spec.opaque_layers) * (spec.num_patches // 2)
        return Knob("r", lambda k: replace(tome, r=_spread(-k, spec)), -most, 0)
    if method.varies:
        raise ValueError(f"{method.name} decides per image, so it cannot be solved for multiply-adds: set its mass.")
    raise ValueError(f"{method.name} has neither a keep rate nor r, so it cannot be solved for multiply-adds.")


def _solve(method: Method, spec: ViTSpec, model_macs: int, target: int, settings: dict[str, Any]) -> Method:
    """The method whose multiply-adds are the largest that do not exceed the target."""
    knob = _knob(method, spec)
    if knob.setting in settings:
        raise ValueError(f"{method.name}: {knob.setting} is what a MACs target solves for, so it cannot be set too.")
    knob.make(knob.high).build(spec)  # what is wrong with other settings is said here
    runs = list(_runs(knob, lambda method: reduced_macs(model_macs, spec, method)))
    lowest = min(run.macs for run in runs)
    if not lowest <= target <= model_macs:
        raise ValueError(
            f"{method.name} cannot bring {spec.name} to {target / 1e9:.4g} GMACs: it reaches {lowest / 1e9:.4g} to "
            f"{model_macs / 1e9:.4g} GMACs."
        )
    best = max((run for run in runs if run.macs <= target), key=lambda run: (run.macs, run.last))
    return knob.make(_roundest(best.first, best.last) if knob.setting == "keep_rate" else best.last)


class Run(NamedTuple):
    """A stretch of a knob's values that cost the same."""

    first: int
    last: int
    macs: int


def _runs(knob: Knob, cost: Callable[[Method], int]) -> Iterator[Run]:
    """All stretches of values with the same cost, without those that the model cannot take.

    They are found by halving, not by a look at every value: what costs the same at both ends does so in between.
    """

    @cache
    def macs(value: int) -> int | None:
        try:
            return cost(knob.make(value))
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

    first = knob.low
    for last in (*ends(knob.low, knob.high), knob.high):
        value = macs(last)
        if value is not None:
            yield Run(first, last, value)
        first = last + 1


def _roundest(first: int, last: int) -> int:
    """The value from first to last with the most zeros at its end, and of those the largest."""
    steps = (10**digits for digits in range(6, -1, -1))
    return next(last // step * step for step in steps if last // step * step >= first)


def _spread(total: int, spec: ViTSpec) -> tuple[int, ...]:
    """Patches to merge in each block: as equal as possible, larger ones first, and at most half of what arrives.

    None in opaque blocks.
    """
    blocks = spec.depth - spec.opaque_layers
    share, rest = divmod(total, blocks)
    patches, removed = spec.num_patches, [0] * spec.opaque_layers
    for layer in range(blocks):
        removed.append(min(share + (layer < rest), patches // 2))
        patches -= removed[-1]
    return tuple(removed)


def _patch_counts(spec: ViTSpec, method: Method | None, num_patches: int | None) -> Iterator[tuple[int, int]]:
    """Patches that enter and leave each block."""
    before = spec.num_patches if num_patches is None else num_patches
    if spec.opaque_layers and before != spec.num_patches:
        raise ValueError(f"{spec.name} takes {spec.num_patches} patches and no other number, not {before}.")
    if method is not None:
        method = method.build(spec)
        check_opaque(method, spec)
        if method.varies:
            raise ValueError(
                f"{method.name} keeps in each image what that image needs, so no formula tells its tokens or "
                "multiply-adds: count_macs(model, images_ICHW=...) counts the mean over images."
            )
    for layer in range(spec.depth):
        after = before if method is None else method.num_kept(layer, before)
        yield before, after
        before = after


def _unreduced_macs(model: nn.Module) -> int:
    with restored(model):
        return count_macs(model)
