"""Shapes of schedules: where the patches go, apart from how many.

A shape is the share of all removed patches that is gone after each block, from 0 to 1 and never falling. Scaled to a
budget it becomes a schedule: patches that enter the first block, then patches that leave each. Searching over shapes
with bumps that are several blocks wide keeps what is found smooth, so that it fits the model and not the images.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from ..core.schedule import falling
from ..core.spec import ViTSpec

Shape = tuple[float, ...]
Schedule = tuple[int, ...]

STARTS = (1 / 12, 1 / 6, 1 / 4, 1 / 3)  # of the depth, where plain shapes begin
CURVES = (0.5, 0.75, 1.0)  # their exponents, see `Ward`
STEPS = ((1 / 4, 1 / 2, 3 / 4), (1 / 3, 7 / 12, 5 / 6))  # of the depth, where patches go in three steps
WIDTHS = (1, 2, 3, 4)  # blocks over which a bump extends to each side
HEIGHTS = (0.02, 0.04, 0.08, 0.15)
SHARES = (0.1, 0.2, 0.4)  # heights of bumps in the share that is dropped


@dataclass(frozen=True)
class Frame:
    """What a schedule of one model has to keep to."""

    num_patches: int
    depth: int
    first: int  # first block that can reduce
    drops_last: bool  # whether the last block drops its patches, which nobody reads
    halves: bool = True  # whether no other block can remove more than half
    least: int = 1  # patches that have to stay

    @classmethod
    def of(cls, spec: ViTSpec) -> Frame:
        """The frame of a model."""
        return cls(spec.num_patches, spec.depth, spec.first_reducible_layer, not spec.reads_patches)

    @property
    def blocks(self) -> int:
        """Blocks that a shape speaks of."""
        return self.depth - self.drops_last

    def schedule(self, shape: Shape, scale: float) -> Schedule:
        """The shape with so large a share of the patches removed at its end."""
        counts = falling(self.num_patches, (scale * gone for gone in shape), halves=self.halves, least=self.least)
        return (*counts, self.least) if self.drops_last else counts

    def fitted(
        self,
        shape: Shape,
        cost: Callable[[Schedule], float],
        budget: float,
        rounded: Callable[[Schedule], Schedule] = tuple,
    ) -> Schedule | None:
        """The schedule of that shape that removes the least within the budget; None if none does.

        rounded: adds patches where they cost nothing.
        """
        low, high = 0.0, 1.0
        if cost(rounded(self.schedule(shape, high))) > budget:
            return None
        while high - low > 0.25 / self.num_patches:
            middle = (low + high) / 2
            low, high = (low, middle) if cost(rounded(self.schedule(shape, middle))) <= budget else (middle, high)
        return rounded(self.schedule(shape, high))

    def plain(self) -> Iterator[Shape]:
        """Shapes to begin with: evenly in all blocks, from a block on by a power, and in three steps."""
        yield power(self.blocks, self.first, 1.0)
        for places in STEPS:
            layers = sorted({max(round(place * self.depth), self.first) for place in places})
            yield tuple(sum(i >= layer for layer in layers) / len(layers) for i in range(self.blocks))
        for start in dict.fromkeys(max(round(share * self.depth), self.first) for share in STARTS):
            for curve in CURVES:
                yield power(self.blocks, start, curve)

    def bumped(self, shape: Shape, rng: random.Random) -> Shape:
        """The shape with a smooth bump, up or down, somewhere."""
        moved = self._with_bump(shape, HEIGHTS, rng)
        return normalised([0.0 if i < self.first else gone for i, gone in enumerate(moved)])

    def bumped_shares(self, shares: Shape, rng: random.Random) -> Shape:
        """Shares from 0 to 1, one for each block, with such a bump."""
        return tuple(min(max(share, 0.0), 1.0) for share in self._with_bump(shares, SHARES, rng))

    def _with_bump(self, values: Shape, heights: Sequence[float], rng: random.Random) -> list[float]:
        centre, width = rng.randrange(self.first, self.blocks), rng.choice(WIDTHS)
        height = rng.choice(heights) * rng.choice((-1, 1))
        return [value + height * max(0.0, 1 - abs(i - centre) / width) for i, value in enumerate(values)]


def power(blocks: int, start: int, curve: float) -> Shape:
    """Nothing before block `start`; then ((i - start + 1) / blocks left) ** curve."""
    left = max(blocks - start, 1)
    return tuple(max((i - start + 1) / left, 0.0) ** curve if i >= start else 0.0 for i in range(blocks))


def normalised(gone: Sequence[float]) -> Shape:
    """Never falling, and 1 at the end."""
    kept, most = [], 0.0
    for each in gone:
        most = max(most, each)
        kept.append(most)
    return tuple(each / most for each in kept) if most > 0 else tuple(kept)


def agree_until(one: Sequence[float], other: Sequence[float]) -> int:
    """The first block in which two schedules differ; the depth if they are the same."""
    return next((i for i, (a, b) in enumerate(zip(one[1:], other[1:], strict=True)) if a != b), len(one) - 1)
