"""Multiply-adds, counted in a forward pass.

They include matrix products, convolutions and both products of attention (torch's FlopCounterMode / 2), as in the
papers: DeiT-T 1.26 G, DeiT-S 4.60 G, DeiT-B 17.6 G at 224 pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from ..heads import check_module
from ..tracing import run_uncompiled
from .forwards import evaluating
from .mac_counter import counting
from .model_input import input_size_of
from .noise import random_images, shape


def count_macs(
    model: nn.Module,
    input_size: tuple[int, int, int] | None = None,
    *,
    images_ICHW: Tensor | None = None,
    **model_kwargs: Any,
) -> int:
    """Count the multiply-adds of one image in a forward pass. The image is random by default.

    Args:
        model: the model, reduced or not.
        input_size: channels, height and width. None: as the model was built.
        images_ICHW: count on these images, one at a time, and return the mean. Needed for input-adaptive models.
        **model_kwargs: passed to the forward, such as interpolate_pos_encoding=True.

    Returns:
        Multiply-adds. int8 layers of torch and torchao count as floating-point layers.

    Raises:
        ValueError: an operation multiplies but cannot be counted.
    """
    check_module(model)
    if images_ICHW is None:
        images_ICHW = random_images(1, input_size_of(model) if input_size is None else input_size)
    if not isinstance(images_ICHW, Tensor) or images_ICHW.ndim != 4 or len(images_ICHW) == 0:
        raise ValueError(f"count_macs needs at least one image, [I, C, H, W], not {shape(images_ICHW)}.")
    weight = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    counts = [
        _count(model, image_1CHW.to(weight.device, weight.dtype), model_kwargs)
        for image_1CHW in torch.split(images_ICHW, 1)
    ]
    return round(sum(counts) / len(counts))


def _count(model: nn.Module, x_1CHW: Tensor, model_kwargs: Mapping[str, Any]) -> int:
    with ExitStack() as cleanup:
        run_uncompiled(cleanup)  # compiled flex attention cannot be counted
        cleanup.enter_context(evaluating(model))
        counter = cleanup.enter_context(counting(model))
        model(x_1CHW, **model_kwargs)
    return int(counter.get_total_flops()) // 2
