"""The floor of a method: as many tokens, taken by a slice."""

import pytest
import torch

import vitrim
from every_method import FIXED, PLAIN, amount
from vitrim.measure.budget.floor import Floor


def counts(model, images):
    with vitrim.trace(model) as traced:
        model(images)
    return {layer.layer: layer.num_tokens_B for layer in traced.layers}


@pytest.mark.parametrize("name", [name for name in FIXED if not PLAIN[name].brings_back])  # those come and go
def test_every_block_has_as_many_tokens_as_with_the_method(tiny_vit, name):
    images = torch.randn(2, 3, 32, 32)
    method = vitrim.create_method(name, **amount(name, per_block=2))
    reduced, sliced = (vitrim.reduce_tokens(tiny_vit(), each) for each in (method, Floor(method=method)))
    assert counts(sliced, images) == counts(reduced, images) != {}


def test_the_first_patches_stay_as_they_are(tiny_vit):
    seen = []
    reduced = vitrim.reduce_tokens(tiny_vit(), Floor(method=vitrim.EViT(keep_rate=0.5, layers=[1], fuse=False)))
    for model in (tiny_vit(), reduced):
        model.blocks[1].norm2.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        model(torch.linspace(-1, 1, 2 * 3 * 32 * 32).view(2, 3, 32, 32))
    whole, sliced = seen
    assert torch.equal(sliced, whole[:, : 1 + 32])


def test_with_and_without_a_trace_it_answers_the_same(tiny_vit):
    images = torch.randn(2, 3, 32, 32)
    model = vitrim.reduce_tokens(tiny_vit(), Floor(method=vitrim.ToMe(r=3)))
    plain = model(images)
    with vitrim.trace(model):
        torch.testing.assert_close(model(images), plain)


def test_an_input_adaptive_method_has_none():
    with pytest.raises(ValueError, match="attention_mass is input-adaptive"):
        Floor(method=vitrim.create_method("attention_mass"))
