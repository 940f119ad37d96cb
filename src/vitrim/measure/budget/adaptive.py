"""Cost of input-adaptive methods, averaged over real images because it has no closed form."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...api import reduce_tokens, restore
from ...backbones.reader import find_stack
from ...core.method import Method
from ...tracing import trace
from ..batches import ImageBatches
from ..forwards import evaluating
from ..macs import count_macs

COUNTED = 32  # images to average over
STEPS = 1000  # values of the amount that are told apart


def varies(model: nn.Module) -> bool:
    """Whether a model is input-adaptive: the number of tokens depends on the image."""
    found = find_stack(model)
    return found is not None and found.stack.method.varies


def images_to_count_on(model: nn.Module, batches: ImageBatches) -> Tensor | None:
    """Choose images to average over, evenly spread: [I, C, H, W]. None if the model is not input-adaptive."""
    return batches.sample(COUNTED) if varies(model) else None


@torch.inference_mode()
def mean_token_counts(model: nn.Module, images_ICHW: Tensor) -> tuple[int, ...]:
    """Count the tokens after each block of a reduced model, prefix included: the rounded mean over the images."""
    found = find_stack(model)
    assert found is not None, "only a reduced model keeps fewer tokens"
    parameter = next(model.parameters())
    with evaluating(model), trace(model) as traced:
        model(images_ICHW.to(parameter.device, parameter.dtype))
    left = {layer.layer: round(sum(layer.num_tokens_B) / len(layer.num_tokens_B)) for layer in traced.layers}
    counts = [traced.num_tokens]
    for layer in range(found.stack.spec.depth):
        counts.append(left.get(layer, counts[-1]))
    return tuple(counts[1:])


def method_on_images(model: nn.Module, method: Method, target: int, images_ICHW: Tensor) -> Method:
    """The method with the most multiply-adds up to the target, in the mean over these images, by bisection.

    Its amount is a share, with which the multiply-adds grow. ValueError if no value meets the target.
    """
    amount, found = method.amount, find_stack(model)
    assert amount is not None

    def cost(step: int) -> int:
        reduce_tokens(model, method.at(step / STEPS))
        return count_macs(model, images_ICHW=images_ICHW)

    try:
        low, high = 1, STEPS
        least = cost(low)
        if not least <= target:
            raise ValueError(
                f"{method.name} cannot reduce these images to {target / 1e9:.4g} GMACs: with {amount.setting} "
                f"{low / STEPS:g} it reaches {least / 1e9:.4g}."
            )
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if cost(middle) <= target else (low, middle)
    finally:
        restore(model)
        if found is not None:
            found.location.install(found.stack)
    return method.at(low / STEPS)
