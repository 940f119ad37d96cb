"""Numbers that look random and depend on a seed and the layer alone."""

from __future__ import annotations

import torch
from torch import Tensor


def pseudo_random(count: int, seed: int, layer: int, device: torch.device) -> Tensor:
    """`count` numbers in [0, 1) that depend on seed and layer alone, from sines: compiles and exports, no generator."""
    # On the CPU, for not every device has float64. ONNX would get plain numbers in single precision, and from torch's
    # older exporter a range of float64 too; so these are tensors, and the range is one of whole numbers.
    position = torch.arange(1, count + 1).double()
    by_position, by_seed, by_layer, factor = torch.tensor(
        [12.9898, (seed + 1) * 78.233, (layer + 1) * 37.719, 43758.5453], dtype=torch.float64
    )
    phase = position * by_position + by_seed + by_layer
    value = (phase.sin() * factor).abs()
    return (value - value.floor()).float().to(device)  # frac(), which torch's older ONNX exporter cannot write
