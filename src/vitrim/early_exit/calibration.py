"""The threshold of anytime inference, from an accuracy target on labelled images.

All exits are heard once for every image. From then on each threshold is arithmetic: who would leave where, how many
would be right, and what it would cost.
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
    """What a threshold gives on the images that it was measured on."""

    thresholds: tuple[float, ...]  # one per exit; infinite where nobody leaves
    by: By
    top1: float  # percent
    full_top1: float  # percent, where every image runs to the end
    exits: tuple[int, ...]  # blocks, 0-based
    shares: tuple[float, ...]  # percent of the images that leave at each exit; last, those that run to the end
    macs: float  # multiply-adds of an image, mean, exit heads included
    num_images: int


@dataclass(frozen=True, eq=False)
class ExitRecord:
    """How sure every exit is of every image, and where the model would be right; E exits, I images."""

    by: By
    exits: tuple[int, ...]
    measure_IE: Tensor  # confidence or entropy
    right_IF: Tensor  # whether the first choice is the label, the final head last: F = E + 1
    macs: tuple[int, ...]  # multiply-adds of an image that leaves at each exit; last, that runs to the end

    def at(self, threshold: float | Sequence[float]) -> AnytimeScore:
        """The score at one threshold, or at one for each exit."""
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
        """The score at the one threshold for all exits that costs the least and meets the target.

        max_drop: percentage points of top-1 that may be lost against full depth. min_top1: percent to reach.
        Every threshold that makes a difference is tried. ValueError if none meets the target.
        """
        if (max_drop is None) == (min_top1 is None):
            raise ValueError("give one target: max_drop, in percentage points, or min_top1, in percent.")
        full = _percent(self.right_IF[:, -1])
        target = min_top1 if min_top1 is not None else full - (max_drop or 0.0)
        threshold_T, top1_T = self._every_threshold()
        enough_T = top1_T >= target - 1e-9
        if not bool(enough_T.any()):
            raise ValueError(
                f"no threshold reaches a top-1 of {target:.2f} % on these {len(self.right_IF)} images: at full depth "
                f"it is {full:.2f} %, at the best threshold {float(top1_T.max()):.2f} %."
            )
        return self.at(float(threshold_T[enough_T.nonzero().max()]))  # the loosest, so the cheapest

    def _every_threshold(self) -> tuple[Tensor, Tensor]:
        """Every threshold that makes a difference, from strict to loose, and its top-1 in percent.

        An image leaves at exit e or before if the surest of these exits reaches the threshold. So each such maximum
        is where, as the threshold loosens, one image moves from exit e + 1 to e and is right or wrong there instead.
        """
        sign = MEASURES[self.by].sign
        move_X = (sign * self.measure_IE).cummax(dim=1).values.flatten()
        gain_X = (self.right_IF[:, :-1].double() - self.right_IF[:, 1:].double()).flatten()
        order = move_X.argsort(descending=True)
        sure_X, right_X = move_X[order], self.right_IF[:, -1].sum() + gain_X[order].cumsum(dim=0)
        last_X = torch.cat([sure_X[1:] < sure_X[:-1], torch.ones(1, dtype=torch.bool)])  # equals move together
        sure_T, right_T = sure_X[last_X], right_X[last_X]
        # Halfway to the next value, where rounding in another batch will hardly matter.
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
    """Hear all exits of a model with METR's heads on labelled images, each once and at full depth.

    Args:
        model: as for `anytime`; it moves to the device.
        batches: images [B, C, H, W] and labels [B], as `load_images` gives them.
        by: confidence or entropy, as for `anytime`.
        device: where the model runs.
        amp: autocast on that device.
        progress: called with images done and images in all.

    Returns:
        The record, which has the score at any threshold.

    Raises:
        ValueError: as from `anytime`, and if there is no image.
    """
    check_module(model)
    wrapped = Anytime(model, math.inf, by)

    def heard(x_BCHW: Tensor, labels_B: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """How sure each exit is, whether each head is right, and one of the images."""
        logits_FBK = finite(torch.stack([at_least_fp32(each) for each in wrapped.all_logits(x_BCHW)]))
        sure_BE = torch.stack([MEASURES[by].of(each).cpu() for each in logits_FBK[:-1]], dim=1)
        return sure_BE, (logits_FBK.argmax(dim=2) == check_labels(labels_B)).T.cpu(), x_BCHW[:1].cpu()

    found = over_batches(wrapped, batches, heard, device=device, amp=amp, progress=progress).found
    if not found:
        raise ValueError("there was no image to record exits on.")
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
    """The cheapest threshold for `anytime` that meets an accuracy target on labelled images, and its score there.

    The score is measured on the very images that the threshold was chosen on, so it flatters a little: hold other
    images back to know how it does on new ones.

    Args:
        model, batches, by, device, amp, progress: as for `record_exits`.
        max_drop: percentage points of top-1 that may be lost against full depth; or
        min_top1: percent to reach.

    Returns:
        The score, with its thresholds.

    Raises:
        ValueError: if no threshold meets the target, or not exactly one target is given.
    """
    record = record_exits(model, batches, by=by, device=device, amp=amp, progress=progress)
    return record.cheapest(max_drop=max_drop, min_top1=min_top1)


def exit_macs(model: nn.Module, images_ICHW: Tensor | None = None) -> tuple[int, ...]:
    """Multiply-adds of an image that leaves at each exit, and last of one that runs to the end, all heads included.

    Counted on a random image, or as the mean over those given, as `count_macs` does.
    """
    probe = Anytime(model, math.inf)
    ways = [[math.inf] * i + [-math.inf] + [math.inf] * (len(probe.exits) - i - 1) for i in range(len(probe.exits))]
    ways.append([math.inf] * len(probe.exits))
    return tuple(count_macs(Anytime(model, way), images_ICHW=images_ICHW) for way in ways)


def _to_count_on(model: nn.Module, seen: Sequence[Tensor]) -> Tensor | None:
    """Some of the images seen, where the multiply-adds depend on the image; None where one is like another."""
    step = -(-len(seen) // COUNTED)
    return torch.cat(list(seen[::step])) if varies(model) else None


def _percent(right: Tensor) -> float:
    return 100 * float(right.double().mean())
