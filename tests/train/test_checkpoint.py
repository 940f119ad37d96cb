"""Checkpoints hold all that an optimiser remembers, and appear whole or not at all."""

import json

import pytest
import torch
from timm.optim import create_optimizer_v2
from torch import nn

from vitrim.train import checkpoint
from vitrim.train.checkpoint import TrainingError

OPTIMIZERS = ["sgd", "momentum", "adamw", "nadamw", "lamb", "lion", "adan", "adafactor", "madgrad", "adopt", "laprop"]


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 3))


def make(name, model):
    return create_optimizer_v2(model, opt=name, lr=0.1, weight_decay=0.05)


def train(model, optimizer, steps):
    for step in steps:
        x_BC = torch.randn(4, 6, generator=torch.Generator().manual_seed(step))
        model(x_BC).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_goes_on_with_the_same_numbers(name, tmp_path):
    straight = net()
    train(straight, make(name, straight), range(6))

    first = net()
    optimizer = make(name, first)
    train(first, optimizer, range(3))
    tensors, plain = checkpoint.optimizer_state(optimizer, first)
    checkpoint.save(tmp_path, 3, {"model": checkpoint.model_tensors(first), "optimizer": tensors}, {"optimizer": plain})

    second = net()
    optimizer = make(name, second)
    read, state = checkpoint.load(checkpoint.latest(tmp_path))
    checkpoint.load_model_tensors(second, read["model"])
    checkpoint.load_optimizer(optimizer, second, read["optimizer"], state["optimizer"])
    train(second, optimizer, range(3, 6))
    mine, theirs = second.state_dict(), straight.state_dict()
    assert [key for key in mine if not torch.equal(mine[key], theirs[key])] == []
    assert not torch.equal(mine["0.weight"], net().state_dict()["0.weight"])


def test_the_state_of_another_models_optimizer_is_refused():
    model, other = net(), nn.Sequential(nn.Linear(2, 2))
    optimizer = make("adamw", model)
    train(model, optimizer, range(1))
    tensors, plain = checkpoint.optimizer_state(optimizer, model)
    with pytest.raises(TrainingError, match=r"parameter [012]\."):
        checkpoint.load_optimizer(make("adamw", other), other, tensors, plain)


@pytest.mark.parametrize("what", ["model", "optimizer", "ema"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_not_saved(what, value, tmp_path):
    good = {"weight": torch.ones(2), "count": torch.tensor(3)}
    checkpoint.save(tmp_path, 1, {"model": good, "optimizer": good, "ema": good}, {})
    files = {"model": good, "optimizer": good, "ema": good} | {what: {"bad": torch.tensor([0.0, value])}}
    with pytest.raises(TrainingError, match=f"update 2 .*{what}.*NaN.*bad"):
        checkpoint.save(tmp_path, 2, files, {})
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


def test_old_checkpoints_and_halves_go(tmp_path):
    tensors = {"model": {"a": torch.ones(1)}, "optimizer": {}}
    halves = [tmp_path / name for name in (".vitrim-abcdefgh", ".part-old-step-00000000")]
    for half in halves:
        (half / "new").mkdir(parents=True)
        (half / ".lock").touch()
    for step in (1, 2, 3):
        checkpoint.save(tmp_path, step, tensors, {})
    assert not halves[0].exists()  # the next one written removes it
    checkpoint.prune(tmp_path, 2)
    checkpoint.clean(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000002", "step-00000003"]


def test_a_checkpoint_without_one_of_its_files_is_named(tmp_path):
    path = checkpoint.save(tmp_path, 1, {"model": {"a": torch.ones(1)}, "optimizer": {}}, {})
    (path / "optimizer.safetensors").unlink()
    with pytest.raises(TrainingError, match=r"optimizer\.safetensors"):
        checkpoint.load(path)
    (path / "state.json").write_text("{")
    with pytest.raises(TrainingError, match="cannot be read"):
        checkpoint.load(path)


def test_nothing_in_a_checkpoint_is_pickled(tmp_path):
    path = checkpoint.save(tmp_path, 1, {"model": {"a": torch.ones(1)}, "optimizer": {}}, {"seconds": 1.5})
    assert {each.suffix for each in path.iterdir()} == {".safetensors", ".json"}
    assert json.loads((path / "state.json").read_text()) == {"step": 1, "seconds": 1.5}
