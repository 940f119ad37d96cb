"""Gradient checkpointing of models of transformers runs with reduced tokens."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

import vitrim
from library_models import DEPTH, hf_dinov3, hf_vit, images, stack_of

transformers = pytest.importorskip("transformers")


@pytest.mark.parametrize("when", ["before", "after"])
def test_gradient_checkpointing_gives_the_same_gradients(when: str) -> None:
    model, twin = hf_vit(), hf_vit()
    if when == "before":
        twin._set_gradient_checkpointing(True, checkpoint)
    for each in (model, twin):
        vitrim.reduce_tokens(each, "tome", r=5).train()
    if when == "after":
        twin._set_gradient_checkpointing(True, checkpoint)
    CALLS.clear()
    outputs = [each(images()).logits for each in (model, twin)]
    assert len(CALLS) == DEPTH
    assert torch.equal(*outputs)
    for out in outputs:
        out.square().sum().backward()
    for mine, other in zip(model.parameters(), twin.parameters(), strict=True):
        assert mine.grad is not None
        assert other.grad is not None
        assert torch.equal(mine.grad, other.grad)
    vitrim.restore(twin)(images())
    assert len(CALLS) == 2 * DEPTH  # it stays on


def test_augmented_rotations_and_gradient_checkpointing_are_followed_in_training() -> None:
    settings = {"pos_embed_shift": 0.3, "pos_embed_jitter": 1.5, "pos_embed_rescale": 2.0, "drop_path_rate": 0.0}
    model = hf_dinov3(**settings).train()
    outputs = []
    for method in (None, vitrim.EViT(keep_rate=1.0), vitrim.EViT(keep_rate=0.5)):
        if method is not None:
            vitrim.reduce_tokens(model, method)
        torch.manual_seed(7)
        outputs.append(model(images()).pooler_output)
    assert torch.equal(outputs[0], outputs[1])
    twin = copy.deepcopy(model)
    twin._set_gradient_checkpointing(True, checkpoint)
    torch.manual_seed(7)
    again = twin(images()).pooler_output
    assert torch.equal(again, outputs[2])
    for out in (again, outputs[2]):
        out.square().sum().backward()
    for mine, other in zip(stack_of(model).parameters(), stack_of(twin).parameters(), strict=True):
        assert mine.grad is not None
        assert torch.equal(mine.grad, other.grad)


CALLS: list[None] = []


def checkpoint(function: Any, *args: Any) -> Any:
    from torch.utils.checkpoint import checkpoint

    CALLS.append(None)
    return checkpoint(function, *args, use_reentrant=False)


def test_the_public_switch_of_gradient_checkpointing_is_heard() -> None:
    model = vitrim.reduce_tokens(hf_vit(), "evit").train()
    switch = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    switch()
    assert all(block.gradient_checkpointing for block in stack_of(model))
    model(images()).logits.sum().backward()


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
def test_reentrant_checkpointing_is_refused() -> None:
    from functools import partial

    from torch.utils.checkpoint import checkpoint

    model = vitrim.reduce_tokens(hf_vit(), "evit").train()
    model._set_gradient_checkpointing(True, partial(checkpoint, use_reentrant=True))
    with pytest.raises(ValueError, match="use_reentrant=False"):
        model(images())
