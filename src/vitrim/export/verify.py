"""Check that an artefact computes the same as the model, by running both on the same images."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..core.notice import VitrimError
from .route import Runner


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The difference between an artefact and its model over all images, at one batch size."""

    batch_size: int
    largest: float  # the largest absolute difference of a logit
    num_images: int
    num_agreeing: int  # images with the same top-1 prediction
    num_apart: int  # images with a logit that differs by more than the tolerance, say because other tokens were kept
    beside: float = 0.0  # largest change of a logit against the first batch size, due to other images in the batch


class ExportMismatch(VitrimError, ValueError):
    """The artefact does not compute the same as its model. The message is one line."""


def check_numbers(model: nn.Module, images_ICHW: Tensor) -> None:
    """Raise ValueError for NaN in weights or images. Some runtimes drop NaN, so a comparison would not show it."""
    bad = [name for name, value in model.state_dict().items() if _has_nan(value)]
    if bad:
        raise ValueError(f"the model's weights hold NaN ({', '.join(bad[:3])}): correct them before exporting.")
    if _has_nan(images_ICHW):
        raise ValueError("the images to compare on hold NaN.")


def compare_logits(
    model: nn.Module,
    runner: Runner,
    images_ICHW: Tensor,
    batch_size: int,
    tolerance: float,
    first_IK: Tensor | None = None,
) -> tuple[Difference, Tensor]:
    """Compare the artefact with the model on as many images as fill whole batches.

    Return the difference and the artefact's logits, with NaN for images that differ by more than the tolerance.
    first_IK: the logits that this function returned for another batch size.
    """
    num_images = len(images_ICHW) // batch_size * batch_size
    expected, got = [], []
    for x_BCHW in torch.split(images_ICHW[:num_images], batch_size):
        expected.append(model(x_BCHW))
        got.append(runner(x_BCHW.contiguous()))
        if got[-1].shape != expected[-1].shape:
            raise ExportMismatch(
                f"at batch {batch_size} the artefact returns {tuple(got[-1].shape)} and the model "
                f"{tuple(expected[-1].shape)}."
            )
    expected_IK, got_IK = torch.cat(expected), torch.cat(got)
    if (num_nan := int(expected_IK.isnan().any(dim=1).sum())) > 0:
        raise ValueError(f"the model itself returns NaN for {num_nan} of {num_images} images: correct that first.")
    distance_I = (got_IK - expected_IK).abs().amax(dim=1)
    apart_I = ~(distance_I <= tolerance)  # true for NaN, too
    kept_IK = got_IK.masked_fill(apart_I.unsqueeze(1), torch.nan)
    found = Difference(
        batch_size=batch_size,
        largest=distance_I.max().item(),  # NaN if any is
        num_images=num_images,
        num_agreeing=int((got_IK.argmax(dim=1) == expected_IK.argmax(dim=1)).sum()),
        num_apart=int(apart_I.sum()),
        beside=0.0 if first_IK is None else _largest_move(first_IK, kept_IK),
    )
    return found, kept_IK


def check_difference(found: Difference, tolerance: float, num_apart: int, route: str) -> None:
    """Raise ExportMismatch unless all but num_apart images are within the tolerance."""
    if found.largest != found.largest or found.num_apart > num_apart:
        raise ExportMismatch(
            f"the artefact of the route {route} differs from the model by {found.largest:.3g} in a logit at batch "
            f"{found.batch_size}; {tolerance:g} is allowed. {found.num_apart} of {found.num_images} images differ by "
            f"more; the top-1 prediction agrees on {found.num_agreeing} of {found.num_images} images. Nothing was "
            "written."
        )
    if found.beside > 2 * tolerance:
        raise ExportMismatch(
            f"in the artefact of the route {route}, the logits of an image depend on the other images of its batch: at "
            f"batch {found.batch_size} they change by {found.beside:.3g}, as with int8 with one scale for the whole "
            "batch. Nothing was written."
        )


def _largest_move(first_IK: Tensor, second_IK: Tensor) -> float:
    num_images = min(len(first_IK), len(second_IK))
    return (first_IK[:num_images] - second_IK[:num_images]).abs().nan_to_num(0.0).max().item()


def _has_nan(value: object) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and bool(value.isnan().any())
