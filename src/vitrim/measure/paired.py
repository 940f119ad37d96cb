"""Accuracy lost by a reduced model, from the same images on both models: intervals that hold at the edges too.

Images on which both are right, or both wrong, say nothing of the loss. It comes from the images *lost* (only the
unreduced model is right) and *won* (only the reduced one is).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

from torch import Tensor

Z95 = NormalDist().inv_cdf(0.975)


@dataclass(frozen=True)
class PairedLoss:
    """Points of accuracy lost on the same images, with a 95 % interval.

    The interval is Newcombe's tenth (Statistics in Medicine 17, 1998): two Wilson intervals, joined by the correlation
    of the pairs.
    """

    both: int  # images that both models get right
    lost: int
    won: int
    neither: int

    @classmethod
    def of(cls, right_before_I: Tensor, right_after_I: Tensor) -> PairedLoss:
        """From what each model gets right, image by image."""
        before, after = right_before_I.bool(), right_after_I.bool()
        pairs = (before & after, before & ~after, ~before & after, ~before & ~after)
        return cls(*(int(each.sum()) for each in pairs))

    @classmethod
    def of_counts(cls, right_after: int, lost: int, won: int, num_images: int) -> PairedLoss:
        """From the images that the second model gets right, and those that were lost and won."""
        both = right_after - won
        return cls(both, lost, won, num_images - both - lost - won)

    @property
    def num_images(self) -> int:
        """Images in all."""
        return self.both + self.lost + self.won + self.neither

    @property
    def points(self) -> float:
        """Percentage points lost; negative if more were won."""
        return 100 * (self.lost - self.won) / self.num_images

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the points lost."""
        n = self.num_images
        p1, p2 = (self.both + self.lost) / n, (self.both + self.won) / n
        (l1, u1), (l2, u2) = wilson(self.both + self.lost, n), wilson(self.both + self.won, n)
        phi, difference = self._correlation(), p1 - p2
        low = difference - math.sqrt(_spread(p1 - l1, u2 - p2, phi))
        high = difference + math.sqrt(_spread(u1 - p1, p2 - l2, phi))
        return 100 * low, 100 * high

    def images_for(self, points: float) -> int:
        """About how many images it takes for an interval of that half width, at this share of changed images."""
        changed = max(self.lost + self.won, 1) / self.num_images
        return math.ceil(changed * (100 * Z95 / points) ** 2)

    def _correlation(self) -> float:
        """Phi of the two by two table, with Newcombe's correction for continuity."""
        a, b, c, d = self.both, self.lost, self.won, self.neither
        margins = (a + b) * (c + d) * (a + c) * (b + d)
        if margins == 0:
            return 0.0
        product = a * d - b * c
        corrected = max(product - self.num_images / 2, 0) if product > 0 else product
        return corrected / math.sqrt(margins)


def wilson(count: int, total: int) -> tuple[float, float]:
    """95 % interval of a share, by Wilson's score."""
    share, z = count / total, Z95
    centre = (share + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    return max(0.0, centre - half), min(1.0, centre + half)


def _spread(one: float, other: float, phi: float) -> float:
    return max(one * one - 2 * phi * one * other + other * other, 0.0)
