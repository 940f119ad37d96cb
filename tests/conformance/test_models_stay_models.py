"""A reduced model is still the model that it was: it trains, saves, loads, copies, checkpoints and comes back."""

from __future__ import annotations

import copy
import pickle

import families
import pytest
import torch

import vitrim

covering_cases = pytest.mark.parametrize(("family", "name"), families.COVERING)


@covering_cases
def test_every_parameter_gets_a_finite_gradient_in_training(family: str, name: str) -> None:
    model, images = families.reduced(family, name).train(), families.small_images(family)
    model(images).square().sum().backward()
    for key, parameter in model.named_parameters():
        if ".method." in key:  # the tests of the method say what reaches these, and when
            assert name in families.LEARNING
            continue
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
        assert parameter.grad.any(), key


@covering_cases
def test_state_dict_keys_are_those_of_the_plain_model_and_load(family: str, name: str) -> None:
    plain, model = families.small_model(family), families.reduced(family, name)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    own = [key for key in state if ".method." in key]
    assert bool(own) == (name in families.LEARNING)
    assert [key for key in state if key not in own] == list(plain.state_dict())
    images = families.small_images(family)
    wanted = model(images)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert not torch.equal(model(images), wanted)
    model.load_state_dict(state)
    assert torch.equal(model(images), wanted)
    plain.load_state_dict({key: value for key, value in state.items() if key not in own})


@covering_cases
def test_restore_brings_the_very_same_blocks_back(family: str, name: str) -> None:
    model, images = families.small_model(family), families.small_images(family)
    wanted, container, blocks = model(images), model.blocks, list(model.blocks)
    attributes = set(model.__dict__)
    vitrim.reduce_tokens(model, families.method_for(name, family))
    model(images)
    assert vitrim.restore(model) is model
    assert model.blocks is container
    assert all(mine is other for mine, other in zip(model.blocks, blocks, strict=True))
    assert set(model.__dict__) == attributes
    assert torch.equal(model(images), wanted)
    assert torch.equal(vitrim.restore(model)(images), wanted)  # twice does no harm


@covering_cases
def test_applying_again_replaces(family: str, name: str) -> None:
    images = families.small_images(family)
    wanted = families.reduced(family, name)(images)
    model = families.reduced(family, "random", keep_rate=0.2)
    vitrim.reduce_tokens(model, families.method_for(name, family))
    assert torch.equal(model(images), wanted)
    vitrim.restore(model)
    assert isinstance(model.blocks[0], type(families.small_model(family).blocks[0]))


@covering_cases
def test_deepcopy_and_pickle_compute_the_same_and_are_independent(family: str, name: str) -> None:
    model, images = families.reduced(family, name), families.small_images(family)
    wanted = model(images)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin(images), wanted)
        with torch.no_grad():
            twin.blocks[0].mlp.fc2.weight.zero_()
        assert not torch.equal(twin(images), wanted)
        assert torch.equal(
            vitrim.restore(twin).blocks[0].mlp.fc2.weight, torch.zeros_like(twin.blocks[0].mlp.fc2.weight)
        )
        assert torch.equal(model(images), wanted)


@covering_cases
def test_gradient_checkpointing_gives_the_same_outputs_and_gradients(family: str, name: str) -> None:
    model, images = families.reduced(family, name).train(), families.small_images(family)
    twin = copy.deepcopy(model)
    twin.set_grad_checkpointing()
    outputs = []
    for each in (model, twin):
        torch.manual_seed(0)  # some methods mask at random in training
        outputs.append(each(images))
    assert torch.equal(*outputs)
    for output in outputs:
        output.square().sum().backward()
    for (key, mine), other in zip(model.named_parameters(), twin.parameters(), strict=True):
        if ".method.exit." in key or not mine.requires_grad:  # nobody listens, or it is trained elsewhere
            assert (mine.grad, other.grad) == (None, None)
            continue
        assert mine.grad is not None
        assert other.grad is not None
        assert torch.equal(mine.grad, other.grad), key
