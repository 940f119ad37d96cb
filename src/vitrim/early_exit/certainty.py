"""How sure a classifier is of an image, by its logits, and from which threshold on that is sure enough.

Shape letters: B batch, K classes.
"""

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
    """A measure of how sure logits are: of [B, K] it gives [B]."""

    of: Callable[[Tensor], Tensor]
    sign: int  # 1 where larger is surer, -1 where smaller is

    def leaves(self, logits_BK: Tensor, threshold: float) -> Tensor:
        """Which images are sure enough; never one whose logits are not finite."""
        return self.reached(self.of(logits_BK), threshold)

    def reached(self, values_B: Tensor, threshold: float) -> Tensor:
        """Which values are sure enough."""
        return values_B >= threshold if self.sign > 0 else values_B <= threshold


def confidence(logits_BK: Tensor) -> Tensor:
    """The largest softmax probability, at least in fp32: [B, K] -> [B], from 1 / K to 1."""
    return at_least_fp32(logits_BK).softmax(dim=1).amax(dim=1)


def entropy(logits_BK: Tensor) -> Tensor:
    """Entropy of the softmax over log K, at least in fp32: [B, K] -> [B], 0 sure of one class to 1 unsure of all."""
    return torch.special.entr(at_least_fp32(logits_BK).softmax(dim=1)).sum(dim=1) / math.log(logits_BK.shape[1])


By = Literal["confidence", "entropy"]
MEASURES = dict(zip(get_args(By), (Measure(confidence, 1), Measure(entropy, -1)), strict=True))


def check_thresholds(threshold: float | Sequence[float], num_exits: int) -> tuple[float, ...]:
    """One threshold per exit; ValueError where that is not what came."""
    several = isinstance(threshold, Sequence) and not isinstance(threshold, str)
    found: Any = tuple(threshold) if several else (threshold,) * num_exits  # type: ignore[arg-type]
    for value in found:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or math.isnan(value):
            raise ValueError(f"a threshold is a number, or one for each exit, not {value!r}.")
    if len(found) != num_exits:
        raise ValueError(f"{num_exits} exits need one threshold, or {num_exits}, and {len(found)} came.")
    return tuple(float(value) for value in found)
