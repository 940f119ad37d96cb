"""Forward times of models that may take images of different sizes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ..measure.forwards import dtype_of, evaluating
from ..measure.model_input import input_size_of
from ..measure.noise import random_images
from ..measure.turns import Turns, take_turns

ROUNDS = 25


def time_in_turns(models: Sequence[nn.Module], batch_size: int, device: torch.device) -> Turns:
    """Forward times of models, each at its own image size, by their places in the list."""
    calls = {}
    for i, model in enumerate(models):
        x_BCHW = random_images(batch_size, input_size_of(model))
        calls[str(i)] = _call(model, x_BCHW.to(device, dtype_of(model, x_BCHW)))
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    with torch.inference_mode():
        return take_turns(calls, ROUNDS, warmup=2, wait=wait)


def _call(model: nn.Module, x_BCHW: Tensor) -> Callable[[], object]:
    def run() -> object:
        with evaluating(model):
            return model(x_BCHW)

    return run
