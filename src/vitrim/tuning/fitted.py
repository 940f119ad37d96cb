"""Time of whole models, where a block cannot run alone as it does in the model: compiled, or in another runtime.

A few schedules of different kinds are compiled or written to a file, and timed. What others take is fitted to them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations

import torch
from torch import nn

from ..api import reduce_tokens
from ..core.method import Method
from ..core.spec import ViTSpec
from .cost import Fitted, terms
from .shapes import Frame, Schedule, power
from .timing import Clock


def measure_fitted(clock: Clock, spec: ViTSpec, make: Callable[[Sequence[int]], Method]) -> Fitted:
    """Time the unreduced model and a few schedules in turns, and fit what any schedule takes."""
    frame = Frame.of(spec)
    schedules = list(dict.fromkeys(examples(frame)))
    models: list[nn.Module] = [reduce_tokens(copy.deepcopy(clock.unreduced), make(each)) for each in schedules]
    turns = clock.turns(models)
    times = [1e3 * turns.median(str(i)) for i in range(len(models) + 1)]
    rows = [terms(spec, each) for each in ((spec.num_patches,) * (spec.depth + 1), *schedules)]
    weights, error = fit(rows, times)
    return Fitted(spec, weights, times[0], error)


def examples(frame: Frame) -> Iterator[Schedule]:
    """Few and many patches, in few and many blocks."""
    blocks, first = frame.blocks, frame.first
    third, half = max(frame.depth // 3, first), max(frame.depth // 2, first)
    for start, curve, scale in ((first, 1.0, 0.4), (first, 1.0, 0.8), (third, 0.5, 0.6), (half, 1.0, 0.8)):
        yield frame.schedule(power(blocks, start, curve), scale)
    for start in (first, half):  # all in one block
        yield frame.schedule(tuple(float(i >= start) for i in range(blocks)), 0.5)


def fit(rows: Sequence[Sequence[float]], times: Sequence[float]) -> tuple[tuple[float, ...], float]:
    """Weights of at least 0 for the terms, and the largest share by which they miss a time.

    The relative errors' squares are least. There are few terms, so every choice of those with a weight is tried.
    """
    x_RT = torch.tensor(rows, dtype=torch.float64)
    y_R = torch.tensor(times, dtype=torch.float64)
    x_RT, y_R = x_RT / y_R[:, None], torch.ones_like(y_R)
    best: tuple[float, tuple[float, ...], float] | None = None
    for count in range(1, x_RT.shape[1] + 1):
        for chosen in combinations(range(x_RT.shape[1]), count):
            found = torch.linalg.lstsq(x_RT[:, chosen], y_R[:, None], driver="gelsd").solution[:, 0]
            if bool((found < 0).any()):
                continue
            weights = torch.zeros(x_RT.shape[1], dtype=torch.float64)
            weights[list(chosen)] = found
            missed_R = (x_RT @ weights - y_R).abs()
            squares = float((missed_R**2).sum())
            if best is None or squares < best[0]:
                best = squares, tuple(weights.tolist()), float(missed_R.max())
    assert best is not None, "the first term alone always fits"
    return best[1], best[2]
