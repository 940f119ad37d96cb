"""Multiply-adds: counted on a real forward, and predicted by formula.

Counted are matrix products, convolutions and both products of attention (torch's FlopCounterMode / 2), as in the
papers: DeiT-T 1.26 G, DeiT-S 4.60 G, DeiT-B 17.6 G at 224 pixels. N is tokens, the prefix included.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from ..core.checks import check_reducible
from ..core.method import Method
from ..core.spec import ViTSpec
from ..heads import check_module
from ..tracing import run_uncompiled
from .evaluate import input_size_of
from .forwards import evaluating
from .mac_counter import counting
from .noise import random_images, shape


def count_macs(
    model: nn.Module,
    input_size: tuple[int, int, int] | None = None,
    *,
    images_ICHW: Tensor | None = None,
    **model_kwargs: Any,
) -> int:
    """Multiply-adds for one image, counted on a forward of a random one.

    Args:
        model: the model, reduced or not.
        input_size: channels, height, width; None for the size the model was built for.
        images_ICHW: images to count on, each alone, for the mean over them; needed where a model's work depends on what
            it sees.
        **model_kwargs: of the model's forward, such as interpolate_pos_encoding=True.

    Returns:
        Multiply-adds. int8 layers of torch and torchao count as in floating point.

    Raises:
        ValueError: where something multiplies that cannot be counted.
    """
    check_module(model)
    if images_ICHW is None:
        images_ICHW = random_images(1, input_size_of(model) if input_size is None else input_size)
    if not isinstance(images_ICHW, Tensor) or images_ICHW.ndim != 4 or len(images_ICHW) == 0:
        raise ValueError(f"multiply-adds are counted on at least one image, [I, C, H, W], not on {shape(images_ICHW)}.")
    weight = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    counts = [
        _count(model, image_1CHW.to(weight.device, weight.dtype), model_kwargs)
        for image_1CHW in torch.split(images_ICHW, 1)
    ]
    return round(sum(counts) / len(counts))


def _count(model: nn.Module, x_1CHW: Tensor, model_kwargs: Mapping[str, Any]) -> int:
    with ExitStack() as cleanup:
        run_uncompiled(cleanup)  # flex attention compiles itself, and would refuse to be counted
        cleanup.enter_context(evaluating(model))
        counter = cleanup.enter_context(counting(model))
        model(x_1CHW, **model_kwargs)
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
    method = None if method is None else method.built_for(spec)
    counts = list(_patch_counts(spec, method, num_patches))
    total = spec.unreadable_macs + counts[-1][1] * spec.head_macs
    for layer, (before, after) in enumerate(counts):
        if layer < spec.first_reducible_layer:
            continue
        num_in, num_out = spec.num_prefix + before, spec.num_prefix + after
        total += num_in * spec.attention_macs + 2 * num_in**2 * spec.attention_channels + num_out * spec.mlp_macs
        total += 0 if method is None else method.extra_macs(layer, before, spec)
    return total


def reduced_macs(model_macs: int, spec: ViTSpec, method: Method, num_patches: int | None = None) -> int:
    """Multiply-adds of a model under a method, from those counted without: only what `block_macs` counts changes."""
    return model_macs - block_macs(spec, None, num_patches) + block_macs(spec, method, num_patches)


def _patch_counts(spec: ViTSpec, method: Method | None, num_patches: int | None) -> Iterator[tuple[int, int]]:
    """Patches that enter and leave each block."""
    before = spec.num_patches if num_patches is None else num_patches
    if spec.first_reducible_layer and before != spec.num_patches:
        raise ValueError(f"{spec.name} takes {spec.num_patches} patches and no other number, not {before}.")
    if method is not None:
        method = method.built_for(spec)
        check_reducible(method, spec)
        if method.varies:
            raise ValueError(
                f"{method.name} keeps in each image what that image needs, so no formula tells its tokens or "
                "multiply-adds: count_macs(model, images_ICHW=...) counts the mean over images."
            )
    for layer in range(spec.depth):
        after = before if method is None else method.num_kept(layer, before)
        yield before, after
        before = after
