"""Exit criteria: the confidence or entropy of the logits, and the threshold for leaving."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from ..core.precision import at_least_fp32


@dataclass(frozen=True)
class Measure:
    """A measure of how certain logits are."""

    of: Callable[[Tensor], Tensor]  # [B, K] -> [B]
    sign: int  # 1 if larger values are more certain, -1 if smaller ones are

    def leaves(self, logits_BK: Tensor, threshold: float) -> Tensor:
        """Which images leave. An image with non-finite logits never does."""
        return self.reached(self.of(logits_BK), threshold)

    def reached(self, values_B: Tensor, threshold: float) -> Tensor:
        """Which values reach the threshold."""
        return values_B >= threshold if self.sign > 0 else values_B <= threshold


def confidence(logits_BK: Tensor) -> Tensor:
    """The largest softmax probability, from 1 / K to 1, computed in at least fp32: [B, K] -> [B]."""
    return at_least_fp32(logits_BK).softmax(dim=1).amax(dim=1)


def entropy(logits_BK: Tensor) -> Tensor:
    """Entropy of the softmax divided by log K, from 0 (certain) to 1, computed in at least fp32: [B, K] -> [B]."""
    return torch.special.entr(at_least_fp32(logits_BK).softmax(dim=1)).sum(dim=1) / math.log(logits_BK.shape[1])


By = Literal["confidence", "entropy"]
MEASURES = dict(zip(get_args(By), (Measure(confidence, 1), Measure(entropy, -1)), strict=True))


def check_thresholds(threshold: float | Sequence[float], num_exits: int) -> tuple[float, ...]:
    """Return one threshold per exit; ValueError if the value is no threshold or has another number of them."""
    several = isinstance(threshold, Sequence) and not isinstance(threshold, str)
    found: Any = tuple(threshold) if several else (threshold,) * num_exits  # type: ignore[arg-type]
    for value in found:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or math.isnan(value):
            raise ValueError(f"a threshold must be a number, or one number per exit, not {value!r}.")
    if len(found) != num_exits:
        raise ValueError(f"{num_exits} exits need one threshold, or {num_exits}, not {len(found)}.")
    return tuple(float(value) for value in found)
