"""Reduced blocks are found by their class, placed on other devices, replicated, copied and run in several threads."""

from __future__ import annotations

import copy
import functools
import importlib.util
import pickle
import threading
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import apply_activation_checkpointing
from torch.distributed.fsdp.wrap import transformer_auto_wrap_policy

import library_models
import vitrim
from conformance import families
from library_models import HF, images
from vitrim.core.listening import listeners_of


def evit(model: Any) -> Any:
    return vitrim.reduce_tokens(model, "evit", keep_rate=0.5)


def of_transformers() -> Any:
    if importlib.util.find_spec("transformers") is None:
        pytest.skip("needs transformers")
    return library_models.of_transformers("ViTForImageClassification", "ViTConfig", **HF, num_labels=10)


def replica_of(model: nn.Module, weights: dict[str, Tensor]) -> Any:
    """What torch's replicate makes of a model for each device, with these weights."""
    name_of = {module: name for name, module in model.named_modules()}
    made = {module: module._replicate_for_data_parallel() for module in name_of}
    for module, replica in made.items():
        replica._modules = {name: child and made[child] for name, child in module._modules.items()}
        for name in module._parameters:
            setattr(replica, name, weights[f"{name_of[module]}.{name}".strip(".")])
    return made[model]


@pytest.mark.parametrize("name", ["evit", "tome", "metr"])
def test_a_replica_computes_and_learns_with_its_own_weights(name: str) -> None:
    model, x = families.reduced("vit", name), images()
    other = copy.deepcopy(model)
    with torch.no_grad():
        for weight in other.parameters():
            weight.mul_(0.9)
    weights = {name: weight.detach().clone().requires_grad_() for name, weight in other.named_parameters()}
    replica = replica_of(model, weights)
    wanted, got = other(x), replica(x)
    assert torch.equal(got, wanted)
    wanted.sum().backward()
    got.sum().backward()
    assert all(weight.grad is None for weight in model.parameters())
    for key, weight in other.named_parameters():
        torch.testing.assert_close(weights[key].grad, weight.grad)


def test_losses_of_a_replica_reach_what_its_method_learns() -> None:
    task = vitrim.ClassificationTask(families.reduced("vit", "metr").train())
    weights = {name: weight.detach().clone().requires_grad_() for name, weight in task.named_parameters()}
    losses = replica_of(task, weights)(images(), torch.tensor([1, 2]))
    losses.loss.backward()
    exits = [weight.grad for name, weight in weights.items() if ".method." in name]
    assert exits and all(grad is not None and grad.abs().sum() > 0 for grad in exits)


@torch.no_grad()
def test_blocks_are_found_by_their_class() -> None:
    model = of_transformers()
    layer = type(model.vit.layers[0])
    blocks = list(evit(model).vit.layers)
    assert len(blocks) == 5 and all(isinstance(block, layer) and type(block).__name__ == "ViTLayer" for block in blocks)
    wraps = functools.partial(transformer_auto_wrap_policy, transformer_layer_cls={layer})
    assert [part for part in model.modules() if wraps(part, recurse=False, nonwrapped_numel=0)] == blocks


@pytest.mark.filterwarnings("ignore:None of the inputs:UserWarning")
def test_torchs_and_transformers_own_checkpointing_give_the_same_gradients() -> None:
    def gradients(model: Any) -> list[Tensor]:
        model.train()(images()).logits.square().sum().backward()
        return [weight.grad for weight in model.parameters() if weight.grad is not None]

    wanted = gradients(evit(of_transformers()))
    layer = type(of_transformers().vit.layers[0])
    wrapped, enabled = evit(of_transformers()), evit(of_transformers())
    apply_activation_checkpointing(wrapped, check_fn=lambda part: isinstance(part, layer))
    checkpoint_in_layers(enabled, use_reentrant=False)
    for model in (wrapped, enabled):
        for got, want in zip(gradients(model), wanted, strict=True):
            torch.testing.assert_close(got, want)
    checkpoint_in_layers(enabled, use_reentrant=True)
    with pytest.raises(ValueError, match="use_reentrant=False"):
        enabled(images())


def checkpoint_in_layers(model: Any, **how: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # newer versions have another name for it
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=how)


@pytest.mark.parametrize("reduced", ["before", "after"])
@torch.no_grad()
def test_accelerate_places_the_blocks_of_a_reduced_model(reduced: str, tmp_path: Path) -> None:
    if importlib.util.find_spec("accelerate") is None:
        pytest.skip("needs accelerate")
    from accelerate import dispatch_model, infer_auto_device_map
    from accelerate.utils import offload_state_dict

    plain, model, x = of_transformers(), of_transformers(), images()
    unreduced, wanted = plain(x).logits, evit(plain)(x).logits
    assert infer_auto_device_map(
        plain, {"cpu": 200_000, "disk": 10**9}, plain._no_split_modules
    ) == infer_auto_device_map(model, {"cpu": 200_000, "disk": 10**9}, model._no_split_modules)
    if reduced == "before":
        evit(model)
    places = {"vit.embeddings": "cpu", "vit.layernorm": "cpu", "classifier": "cpu"}
    places |= {f"vit.layers.{i}": "disk" if i % 2 else "cpu" for i in range(5)}
    of_disk = {
        key: weight
        for key, weight in model.state_dict().items()
        if places.get(key.rsplit(".", key.count(".") - 2)[0]) == "disk"
    }
    assert of_disk
    offload_state_dict(tmp_path, of_disk)
    dispatch_model(model, device_map=places, offload_dir=tmp_path, main_device="cpu")
    if reduced == "after":
        evit(model)
    assert next(model.vit.layers[1].parameters()).is_meta
    assert torch.equal(model(x).logits, wanted)
    assert torch.equal(vitrim.restore(model)(x).logits, unreduced)


@pytest.mark.parametrize(
    "make", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))], ids=["copy", "pickle"]
)
@torch.no_grad()
def test_a_copy_made_while_traced_is_not_traced(make: Any) -> None:
    model, x = families.reduced("vit", "evit"), images()
    with vitrim.trace(model) as traced:
        wanted = model(x)
        layers, twin = traced.layers, make(model)
        assert torch.equal(twin(x), wanted)
        assert traced.layers is layers
    with vitrim.trace(twin) as traced:
        assert torch.equal(twin(x), wanted)
    assert [layer.layer for layer in traced.layers] == [layer.layer for layer in layers]
    assert listeners_of(model.blocks.spec) == listeners_of(twin.blocks.spec) == ()


@torch.no_grad()
def test_a_new_keep_rate_in_the_middle_of_a_forward_acts_from_the_next_one() -> None:
    model, x = families.reduced("vit", "evit", keep_rate=0.5), images()
    wanted = model(x)
    method = model.blocks.method
    handle = model.blocks[1].mlp.register_forward_hook(lambda *_: model.blocks.set_method(method.at_keep_rate(0.9)))
    assert torch.equal(model(x), wanted)
    handle.remove()
    assert torch.equal(model(x), vitrim.reduce_tokens(families.small_model("vit"), "evit", keep_rate=0.9)(x))


@torch.no_grad()
def test_a_trace_and_features_hear_their_own_thread_alone() -> None:
    model, x, others = families.reduced("vit", "evit"), images(2), images(3)
    entered, forwarded = threading.Event(), threading.Event()
    wrong: list[str] = []

    def wait(*_: Any) -> None:
        if threading.current_thread() is not worker:
            entered.set()
            assert forwarded.wait(20)

    def work() -> None:
        assert entered.wait(20)
        with torch.no_grad():
            model(others)
            if vitrim.features(model, others).maps[0].shape[0] != 3:
                wrong.append("features")
        forwarded.set()

    worker = threading.Thread(target=work)
    handle = model.blocks[2].mlp.register_forward_hook(wait)
    worker.start()
    with vitrim.trace(model) as traced:
        model(x)
    worker.join()
    handle.remove()
    assert traced.batch_size == 2 and all(layer.source_BP.shape == (2, 64) for layer in traced.layers)
    assert traced.layers and not wrong
