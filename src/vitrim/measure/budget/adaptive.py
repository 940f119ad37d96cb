"""Cost of input-adaptive methods, averaged over real images because it has no closed form."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...backbones.reader import find_stack
from ...tracing import trace
from ..batches import ImageBatches
from ..forwards import evaluating

COUNTED = 32  # images to average over


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
