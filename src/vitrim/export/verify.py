"""Whether an artefact computes what the model does: the same images through both.

Shape letters: B batch, I images, C channels, H height, W width, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..errors import VitrimError
from .route import Runner


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How far an artefact is from the model, over all images in batches of one size."""

    batch_size: int
    largest: float  # absolute difference between two logits
    num_images: int
    num_agreeing: int  # images whose first choice is the same
    num_apart: int  # images with a logit that differs by more than the tolerance: they kept other tokens, or worse
    beside: float = 0.0  # how far a logit moved with the images beside it, against the first batch size compared


class ExportMismatch(VitrimError, ValueError):
    """An artefact that does not compute what its model does; the message is one line."""


def check_numbers(model: nn.Module, images_ICHW: Tensor) -> None:
    """ValueError for NaN in what goes in: some runtimes lose it on the way, and a comparison would not show it."""
    spoilt = [name for name, value in model.state_dict().items() if _has_nan(value)]
    if spoilt:
        raise ValueError(f"the model's weights hold NaN ({', '.join(spoilt[:3])}): nothing that is computed counts.")
    if _has_nan(images_ICHW):
        raise ValueError("the images to compare on hold NaN.")


def compare(
    model: nn.Module,
    runner: Runner,
    images_ICHW: Tensor,
    batch_size: int,
    tolerance: float,
    first_IK: Tensor | None = None,
) -> tuple[Difference, Tensor]:
    """The artefact against the model on as many images as fill whole batches; and its logits, NaN where too far off.

    first_IK: those for the same images in batches of another size.
    """
    num_images = len(images_ICHW) // batch_size * batch_size
    expected, got = [], []
    for x_BCHW in torch.split(images_ICHW[:num_images], batch_size):
        expected.append(model(x_BCHW))
        got.append(runner(x_BCHW.contiguous()))
        if got[-1].shape != expected[-1].shape:
            raise ExportMismatch(
                f"at batch {batch_size} the artefact's output is {tuple(got[-1].shape)}, and the model's is "
                f"{tuple(expected[-1].shape)}."
            )
    expected_IK, got_IK = torch.cat(expected), torch.cat(got)
    if (num_nan := int(expected_IK.isnan().any(dim=1).sum())) > 0:
        raise ValueError(f"the model itself gives NaN for {num_nan} of {num_images} images: mend that first.")
    distance_I = (got_IK - expected_IK).abs().amax(dim=1)
    apart_I = ~(distance_I <= tolerance)  # NaN counts
    kept_IK = got_IK.masked_fill(apart_I.unsqueeze(1), torch.nan)
    found = Difference(
        batch_size=batch_size,
        largest=distance_I.max().item(),  # NaN, if there is one
        num_images=num_images,
        num_agreeing=int((got_IK.argmax(dim=1) == expected_IK.argmax(dim=1)).sum()),
        num_apart=int(apart_I.sum()),
        beside=0.0 if first_IK is None else _largest_move(first_IK, kept_IK),
    )
    return found, kept_IK


def check(found: Difference, tolerance: float, num_apart: int, route: str) -> None:
    """ExportMismatch, saying how far off, unless all but num_apart images are within the tolerance."""
    if found.largest != found.largest or found.num_apart > num_apart:
        raise ExportMismatch(
            f"what the route {route} wrote differs from the model by {found.largest:.3g} in a logit at batch "
            f"{found.batch_size}, and {tolerance:g} is allowed; {found.num_apart} of {found.num_images} images differ "
            f"by more; the first choice agrees on {found.num_agreeing} of {found.num_images} images. "
            "No artefact was left."
        )
    if found.beside > 2 * tolerance:
        raise ExportMismatch(
            f"what the route {route} wrote gives an image other logits with other images beside it: they move by "
            f"{found.beside:.3g} at batch {found.batch_size}, as with int8 that has one scale for the whole batch. "
            "No artefact was left."
        )


def _largest_move(first_IK: Tensor, second_IK: Tensor) -> float:
    num_images = min(len(first_IK), len(second_IK))
    return (first_IK[:num_images] - second_IK[:num_images]).abs().nan_to_num(0.0).max().item()


def _has_nan(value: object) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and bool(value.isnan().any())
