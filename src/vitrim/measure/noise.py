"""Random images for counting, timing and tracing."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..kinds import is_whole
from ..text import shown


def random_images(count: int, input_size: Sequence[int]) -> Tensor:
    """Make images [count, C, H, W] in fp32 on the CPU. They are always the same. Leaves the global generators alone."""
    size = tuple(input_size) if isinstance(input_size, Sequence) else ()
    if len(size) != 3 or not all(is_whole(side, 1) for side in size):
        raise ValueError(
            f"the size of images must be channels, height and width, such as (3, 224, 224), not {shown(input_size)}."
        )
    return torch.randn(count, *size, generator=torch.Generator("cpu").manual_seed(0), device="cpu")


def shape(images: object) -> str:
    """Describe a wrong value for images: its shape or its class."""
    return str(list(images.shape)) if isinstance(images, Tensor) else f"a {type(images).__name__}"
