"""The warm-up of the keep rate: 1 at first, then a half cosine down to the target (EViT, section 3.4).

It changes in every iteration, as in the official code. BAT and TM/MF warm up in the same way.
"""

from __future__ import annotations

import math
from collections.abc import Sequence


def keep_rate_at(
    iteration: int, iterations_per_epoch: int, target: float, start_epoch: float, over_epochs: float
) -> float:
    """Return the keep rate of one iteration, counted from 0 over all epochs.

    It is 1 before start_epoch, then follows half a cosine that reaches the target over_epochs later, at once for 0.
    """
    first = start_epoch * iterations_per_epoch
    length = over_epochs * iterations_per_epoch
    if iteration < first:
        return 1.0
    if iteration >= first + length:
        return target
    return target + (1 - target) * 0.5 * (1 + math.cos(math.pi * (iteration - first) / length))


def keep_rates_at(
    iteration: int, iterations_per_epoch: int, target: float | Sequence[float], start_epoch: float, over_epochs: float
) -> float | tuple[float, ...]:
    """`keep_rate_at` for one target, or one target per layer."""
    if isinstance(target, int | float):
        return keep_rate_at(iteration, iterations_per_epoch, target, start_epoch, over_epochs)
    return tuple(keep_rate_at(iteration, iterations_per_epoch, rate, start_epoch, over_epochs) for rate in target)
