"""Random numbers that leave the global generator alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


@contextmanager
def seeded(layer: int) -> Iterator[None]:
    """New weights of a block: the same under one seed of torch, whatever was drawn before. Draws nothing from it."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed((torch.initial_seed() + layer) % 2**63)
        yield


def pseudo_random(count: int, seed: int, layer: int, device: torch.device) -> Tensor:
    """`count` numbers in [0, 1), computed by sines from the seed and the layer, so that they compile and export."""
    # On the CPU, because not every device has float64. Constants are tensors and the range is whole, because ONNX
    # exporters would write numbers and float ranges in single precision.
    position = torch.arange(1, count + 1).double()
    by_position, by_seed, by_layer, factor = torch.tensor(
        [12.9898, (seed + 1) * 78.233, (layer + 1) * 37.719, 43758.5453], dtype=torch.float64
    )
    phase = position * by_position + by_seed + by_layer
    value = (phase.sin() * factor).abs()
    return (value - value.floor()).float().to(device)  # frac(), which torch's older ONNX exporter cannot write
