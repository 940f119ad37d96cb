"""Whether an artefact computes what the model does: the same images through both.

Shape letters: B batch, I images, C channels, H height, W width, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .route import Runner


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How far an artefact is from the model, over all images in batches of one size."""

    batch_size: int
    largest: float  # absolute difference between two logits
    num_images: int
    num_agreeing: int  # images whose first choice is the same


class ExportMismatch(ValueError):
    """An artefact that does not compute what its model does; the message is one line."""


def compare(model: nn.Module, runner: Runner, images_ICHW: Tensor, batch_size: int) -> Difference:
    """The artefact against the model on as many images as fill whole batches."""
    largest, num_agreeing = 0.0, 0
    num_images = len(images_ICHW) // batch_size * batch_size
    for x_BCHW in torch.split(images_ICHW[:num_images], batch_size):
        expected_BK = model(x_BCHW)
        got_BK = runner(x_BCHW.contiguous())
        if got_BK.shape != expected_BK.shape:
            raise ExportMismatch(
                f"at batch {batch_size} the artefact's output is {tuple(got_BK.shape)}, and the model's is "
                f"{tuple(expected_BK.shape)}."
            )
        distance = (got_BK - expected_BK).abs().max().item()
        largest = max(largest, distance) if distance == distance else float("nan")
        num_agreeing += int((got_BK.argmax(dim=1) == expected_BK.argmax(dim=1)).sum())
        if largest != largest:  # not a number: no later batch makes that good
            break
    return Difference(batch_size=batch_size, largest=largest, num_images=num_images, num_agreeing=num_agreeing)


def check(found: Difference, tolerance: float, route: str) -> None:
    """ExportMismatch, saying how far off, unless the difference is at most the tolerance."""
    if found.largest <= tolerance:  # false for NaN
        return
    raise ExportMismatch(
        f"what the route {route} wrote differs from the model by {found.largest:.3g} in a logit at batch "
        f"{found.batch_size}, and {tolerance:g} is allowed; the first choice agrees on {found.num_agreeing} of "
        f"{found.num_images} images. No artefact was left."
    )
