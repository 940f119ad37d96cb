"""Choose the threshold of anytime inference from an accuracy target on labelled images.

Every exit is evaluated once per image. Scoring a threshold then needs no further forward pass: exits, accuracy and cost
follow from the recorded values.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..core.precision import at_least_fp32
from ..heads import check_module
from ..measure.batches import Batch, Progress
from ..measure.budget.adaptive import COUNTED, varies
from ..measure.forwards import check_labels, finite, over_batches
from ..measure.macs import count_macs
from .certainty import MEASURES, By, check_thresholds
from .model import Anytime


@dataclass(frozen=True)
class AnytimeScore:
    """Accuracy and cost at a threshold, on the images it was measured on."""

    thresholds: tuple[float, ...]  # one per exit; infinite if no image leaves there
    by: By
    top1: float  # percent
    full_top1: float  # percent, if every image runs through all blocks
    exits: tuple[int, ...]  # blocks, 0-based
    shares: tuple[float, ...]  # percent of the images that leave at each exit; last, of those that leave at none
    macs: float  # mean multiply-adds per image, exit heads included
    num_images: int


@dataclass(frozen=True, eq=False)
class ExitRecord:
    """Confidence and correctness of every exit on every image. Shape letters: E exits, I images, F = E + 1 heads."""

    by: By
    exits: tuple[int, ...]
    measure_IE: Tensor  # confidence or entropy
    right_IF: Tensor  # whether the prediction is right; the final head is last
    macs: tuple[int, ...]  # multiply-adds of an image that leaves at each exit; last, of one that leaves at none

    def at(self, threshold: float | Sequence[float]) -> AnytimeScore:
        """Return the score at one threshold, or at one per exit."""
        thresholds = check_thresholds(threshold, len(self.exits))
        measure = MEASURES[self.by]
        columns = zip(self.measure_IE.unbind(dim=1), thresholds, strict=True)
        leaves_IE = torch.stack([measure.reached(column_I, value) for column_I, value in columns], dim=1)
        exit_I = (~leaves_IE).long().cumprod(dim=1).sum(dim=1)  # exits passed before the first one taken
        num_images = len(exit_I)
        shares = torch.bincount(exit_I, minlength=len(self.macs)).double() / num_images
        right_I = self.right_IF.gather(1, exit_I.unsqueeze(1))
        return AnytimeScore(
            thresholds,
            self.by,
            _percent(right_I),
            _percent(self.right_IF[:, -1]),
            self.exits,
            tuple((100 * shares).tolist()),
            float(shares @ torch.tensor(self.macs, dtype=torch.float64)),
            num_images,
        )

    def cheapest(self, *, max_drop: float | None = None, min_top1: float | None = None) -> AnytimeScore:
        """Return the score at the cheapest threshold that meets the target, one threshold for all exits.

        Every threshold that makes a difference is tried.

        Args:
            max_drop: Percentage points of top-1 that may be lost against full depth.
            min_top1: Top-1 to reach, in percent.

        Returns:
            The score, with its threshold.

        Raises:
            ValueError: If no threshold meets the target, or not exactly one target is given.
        """
        if (max_drop is None) == (min_top1 is None):
            raise ValueError("give one target: max_drop, in percentage points, or min_top1, in percent.")
        full = _percent(self.right_IF[:, -1])
        target = min_top1 if min_top1 is not None else full - (max_drop or 0.0)
        threshold_T, top1_T = self._every_threshold()
        enough_T = top1_T >= target - 1e-9
        if not bool(enough_T.any()):
            raise ValueError(
                f"no threshold reaches a top-1 of {target:.2f} % on these {len(self.right_IF)} images: the best one "
                f"reaches {float(top1_T.max()):.2f} %, and full depth {full:.2f} %."
            )
        return self.at(float(threshold_T[enough_T.nonzero().max()]))  # the loosest, so the cheapest

    def _every_threshold(self) -> tuple[Tensor, Tensor]:
        """Return every threshold that makes a difference, from strict to loose, and its top-1 in percent.

        An image leaves at exit e or before if the largest confidence of these exits reaches the threshold. So each
        such maximum is a threshold at which one image moves from exit e + 1 to exit e.
        """
        sign = MEASURES[self.by].sign
        move_X = (sign * self.measure_IE).cummax(dim=1).values.flatten()
        gain_X = (self.right_IF[:, :-1].double() - self.right_IF[:, 1:].double()).flatten()
        order = move_X.argsort(descending=True)
        sure_X, right_X = move_X[order], self.right_IF[:, -1].sum() + gain_X[order].cumsum(dim=0)
        last_X = torch.cat([sure_X[1:] < sure_X[:-1], torch.ones(1, dtype=torch.bool)])  # equal values move together
        sure_T, right_T = sure_X[last_X], right_X[last_X]
        # Halfway to the next value, so that rounding in another batch hardly matters.
        halfway_T = torch.cat([(sure_T[:-1] + sure_T[1:]) / 2, sure_T[-1:]])
        next_T = torch.cat([sure_T[1:], sure_T.new_full((1,), -math.inf)])
        sure_T = torch.where(halfway_T > next_T, halfway_T, sure_T)
        sure_T = torch.cat([sure_T.new_full((1,), math.inf), sure_T])
        right_T = torch.cat([self.right_IF[:, -1:].sum(dim=0), right_T])
        return sign * sure_T, 100 * right_T.double() / len(self.right_IF)


def record_exits(
    model: nn.Module,
    batches: Iterable[Batch | tuple[Tensor, Tensor]],
    *,
    by: By = "confidence",
    device: torch.device | str = "cpu",
    amp: bool = False,
    progress: Progress | None = None,
) -> ExitRecord:
    """Evaluate all exits of a model on labelled images, each image once and at full depth.

    Args:
        model: As for `anytime`. It is moved to the device.
        batches: Images [B, C, H, W] and labels [B], such as `load_images` returns.
        by: confidence or entropy, as for `anytime`.
        device: The device to run on.
        amp: Whether to use autocast.
        progress: Called with the number of images done and the total.

    Returns:
        The record, which gives the score at any threshold.

    Raises:
        ValueError: As from `anytime`, and if there is no image.
    """
    check_module(model)
    wrapped = Anytime(model, math.inf, by)

    def evaluate(x_BCHW: Tensor, labels_B: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The measure of each exit, whether each head is right, and one of the images."""
        logits_FBK = finite(torch.stack([at_least_fp32(each) for each in wrapped.all_logits(x_BCHW)]))
        sure_BE = torch.stack([MEASURES[by].of(each).cpu() for each in logits_FBK[:-1]], dim=1)
        return sure_BE, (logits_FBK.argmax(dim=2) == check_labels(labels_B)).T.cpu(), x_BCHW[:1].cpu()

    found = over_batches(wrapped, batches, evaluate, device=device, amp=amp, progress=progress).found
    if not found:
        raise ValueError("there is no image to evaluate the exits on.")
    sure, right, seen = zip(*found, strict=True)
    return ExitRecord(by, wrapped.exits, torch.cat(sure), torch.cat(right), exit_macs(model, _to_count_on(model, seen)))


def calibrate_anytime(
    model: nn.Module,
    batches: Iterable[Batch | tuple[Tensor, Tensor]],
    *,
    max_drop: float | None = None,
    min_top1: float | None = None,
    by: By = "confidence",
    device: torch.device | str = "cpu",
    amp: bool = False,
    progress: Progress | None = None,
) -> AnytimeScore:
    """Find the cheapest threshold for `anytime` that meets an accuracy target on labelled images.

    The score is measured on the same images as the threshold was chosen on, so it is a little optimistic. Keep other
    images to measure it on new ones.

    Args:
        model, batches, by, device, amp, progress: As for `record_exits`.
        max_drop: Percentage points of top-1 that may be lost against full depth.
        min_top1: Top-1 to reach, in percent. Give this or max_drop.

    Returns:
        The score at this threshold.

    Raises:
        ValueError: If no threshold meets the target, or not exactly one target is given.
    """
    record = record_exits(model, batches, by=by, device=device, amp=amp, progress=progress)
    return record.cheapest(max_drop=max_drop, min_top1=min_top1)


def exit_macs(model: nn.Module, images_ICHW: Tensor | None = None) -> tuple[int, ...]:
    """Count the multiply-adds of an image that leaves at each exit, and last of one that leaves at none.

    Exit heads are included. As in `count_macs`, a random image is used, or the mean over the images given.
    """
    probe = Anytime(model, math.inf)
    ways = [[math.inf] * i + [-math.inf] + [math.inf] * (len(probe.exits) - i - 1) for i in range(len(probe.exits))]
    ways.append([math.inf] * len(probe.exits))
    return tuple(count_macs(Anytime(model, way), images_ICHW=images_ICHW) for way in ways)


def _to_count_on(model: nn.Module, seen: Sequence[Tensor]) -> Tensor | None:
    """Some of the images, if the multiply-adds depend on the image; otherwise None."""
    step = -(-len(seen) // COUNTED)
    return torch.cat(list(seen[::step])) if varies(model) else None


def _percent(right: Tensor) -> float:
    return 100 * float(right.double().mean())
