"""Counts of one reducing layer: how many patches are attentive, and how many tokens leave."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

# Keep rate -> share of the patches that leaves a reducing layer, with clusters and pairs. DeiT-S then has the logged
# MACs: 3.0048 G at 0.7, 2.5832 at 0.6, 2.3444 at 0.5, 2.0830 at 0.4, 1.8233 at 0.3, 1.6451 at 0.2.
LOGGED_SHARE = (
    (0.0, 0.0),
    (0.2, 0.208),
    (0.3, 0.308),
    (0.4, 0.424),
    (0.5, 0.516),
    (0.6, 0.588),
    (0.7, 0.702),
    (1.0, 1.0),
)


class Split(NamedTuple):
    """Counts of one reducing layer."""

    attentive: int
    inattentive: int
    clusters: int  # tokens that the inattentive patches become
    pairs: int  # attentive patches that merge into another one


def share_logged(rate: float) -> float:
    """Share of the patches that leaves at a keep rate, as in the logs."""
    return _interpolate(rate, LOGGED_SHARE)


def attentive_of(leaving: int, num_patches: int) -> int:
    """How many patches are attentive if so many tokens shall leave, in the proportion of the logs."""
    rate = _interpolate(leaving / num_patches, [(share, rate) for rate, share in LOGGED_SHARE])
    return min(num_patches, max(1, math.ceil(rate * num_patches - 1e-9)))


def _interpolate(at: float, table: Sequence[tuple[float, float]]) -> float:
    """The second value of a table of pairs where the first is `at`, in between on a line."""
    steps = zip(table, table[1:], strict=False)
    (low, at_low), (high, at_high) = next(step for step in steps if at <= step[1][0])
    return at_low + (at_high - at_low) * (at - low) / (high - low)
