"""Models of torchvision, transformers and open_clip keep the fused attention kernel; no matrix of tokens is formed."""

from __future__ import annotations

import other_libraries as others
import pytest
import torch
from torch import nn

from library_models import images, output, stack_of
from operations import FUSED, Operations


def run(model: nn.Module) -> tuple[list[int], list[tuple[str, tuple[int, ...]]]]:
    """How many tokens enter each block, and what is made on the way through the model."""
    counts: list[int] = []

    handles = [
        block.register_forward_pre_hook(lambda _, inputs: counts.append(inputs[0].shape[1]))
        for block in stack_of(model)
    ]
    with torch.no_grad(), Operations() as operations:
        output(model, images())
    for handle in handles:
        handle.remove()
    return counts, operations.made


@pytest.mark.parametrize("name", ["evit", "tome"])
@pytest.mark.parametrize("family", others.HERE)
def test_the_fused_kernel_runs_and_no_square_matrix_of_tokens_is_formed(family: str, name: str) -> None:
    settings = {"keep_rate": 0.5} if name == "evit" else {"r": 3}  # no count of tokens equals a number of channels
    model = others.reduced(family, name, **settings)
    counts, made = run(model)
    fused = [shape[2] for operation, shape in made if operation == FUSED and len(shape) == 4]
    assert fused[: len(counts)] == counts  # a head may attend once more
    squares = {(count, count) for count in counts}
    assert [each for each in made if len(each[1]) > 2 and each[1][-2:] in squares] == []  # a weight has two axes


@pytest.mark.skipif("hf_vit" not in others.HERE, reason="transformers is not installed")
def test_the_check_for_square_matrices_sees_one() -> None:
    model = others.small_model("hf_vit")
    model.set_attn_implementation("eager")
    with torch.no_grad(), Operations() as operations:
        output(model, images())
    assert (2, 3, 65, 65) in [shape for _, shape in operations.made]
