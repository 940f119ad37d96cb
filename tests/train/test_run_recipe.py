"""What a run does with its recipe, one choice at a time."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file
from small_run import lines, losses, recipe

from vitrim.train import checkpoint, loop
from vitrim.train.recipe import Recipe
from vitrim.train.run_recipe import run_recipe
from vitrim.train.setup import Setup


def weights(output):
    return load_file(checkpoint.latest(output / "checkpoints") / "model.safetensors")


@pytest.fixture(scope="module")
def plain(images, tmp_path_factory):
    """The run that others are compared with."""
    output = tmp_path_factory.mktemp("plain") / "out"
    run_recipe(recipe(epochs=1), images, output, cpu=True)
    return output


def test_a_run_leaves_its_log_its_summary_and_its_model(plain):
    assert {path.name for path in plain.iterdir()} >= {
        "recipe.json", "metrics.jsonl", "checkpoints", "summary.json", "curves.svg", "model",
    }  # fmt: skip
    summary = json.loads((plain / "summary.json").read_text())
    assert summary["updates"] == 3
    assert summary["top1"] == lines(plain)[-1]["accuracy"]["top1"]
    assert summary["gmacs"] > 0
    assert load_file(plain / "model" / "model.safetensors").keys() == weights(plain).keys()


def test_two_runs_in_one_interpreter_each_have_their_own_precision(plain, images, tmp_path, monkeypatch):
    seen = []
    backward = loop.Trainer._backward

    def look(self, *args):
        handle = self.setup.model.blocks[0].mlp.register_forward_hook(lambda *found: seen.append(found[2].dtype))
        backward(self, *args)
        handle.remove()

    monkeypatch.setattr(loop.Trainer, "_backward", look)
    run_recipe(recipe(epochs=0.34, precision="bf16"), images, tmp_path / "half", cpu=True)
    assert set(seen) == {torch.bfloat16}
    assert losses(tmp_path / "half")[0] == pytest.approx(losses(plain)[0], rel=0.02)
    seen.clear()
    run_recipe(recipe(epochs=0.34), images, tmp_path / "single", cpu=True)
    assert set(seen) == {torch.float32}
    assert losses(tmp_path / "single") == losses(plain)[:1]


def test_a_run_after_one_that_failed_is_as_any_other(plain, images, tmp_path, monkeypatch):
    with monkeypatch.context() as patches:
        patches.setattr(loop.Trainer, "_update", None)
        with pytest.raises(TypeError):
            run_recipe(recipe(epochs=1, precision="bf16"), images, tmp_path / "failed", cpu=True)
    run_recipe(recipe(epochs=1), images, tmp_path / "out", cpu=True)
    assert losses(tmp_path / "out") == losses(plain)


def test_gradient_checkpointing_computes_the_same(plain, images, tmp_path, monkeypatch):
    calls, original, backward = [], torch.utils.checkpoint.checkpoint, loop.Trainer._backward

    def look(*args, **settings):
        calls.append(args)
        return original(*args, **settings)

    def backward_watched(self, *args):
        with monkeypatch.context() as patches:
            patches.setattr(torch.utils.checkpoint, "checkpoint", look)
            backward(self, *args)

    monkeypatch.setattr(loop.Trainer, "_backward", backward_watched)
    run_recipe(recipe(epochs=1, grad_checkpointing=True), images, tmp_path / "out", cpu=True)
    assert losses(tmp_path / "out") == pytest.approx(losses(plain), abs=1e-6)
    assert len(calls) == 6 * 3  # blocks, updates


def test_clip_grad_bounds_the_norm_of_the_gradient(images, tmp_path, monkeypatch):
    norms = []
    step = torch.optim.SGD.step

    def look(self, *args, **kwargs):
        squares = [each.grad.square().sum() for group in self.param_groups for each in group["params"]]
        norms.append(float(sum(squares)) ** 0.5)
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.SGD, "step", look)
    run_recipe(recipe(epochs=1, optimizer="sgd"), images, tmp_path / "free", cpu=True)
    run_recipe(recipe(epochs=1, optimizer="sgd", clip_grad=0.01), images, tmp_path / "clipped", cpu=True)
    free, clipped = norms[:3], norms[3:]
    assert min(free) > 0.02
    assert clipped == pytest.approx([0.01] * 3, rel=1e-3)


def test_the_moving_average_follows_the_weights(images, tmp_path):
    wanted = recipe(epochs=1, ema_decay=0.75, checkpoint_every=1, checkpoints_kept=9)
    summary = run_recipe(wanted, images, tmp_path / "out", cpu=True)
    start = Setup(wanted, images, cpu=True).model.state_dict()
    average = {name: value.clone() for name, value in start.items()}
    for step in (1, 2, 3):
        place = tmp_path / "out" / "checkpoints" / f"step-{step:08d}"
        tensors = load_file(place / "model.safetensors")
        average = {name: 0.75 * value + 0.25 * tensors[name] for name, value in average.items()}
        saved = load_file(place / "ema.safetensors")
        assert all(torch.allclose(saved[name], average[name], atol=1e-6) for name in average)
    assert summary["ema_top1"] == lines(tmp_path / "out")[-1]["accuracy"]["ema_top1"]
    assert torch.equal(load_file(tmp_path / "out/model/model.safetensors")["head.weight"], saved["head.weight"])


def test_layer_decay_gives_early_blocks_smaller_rates(images):
    setup = Setup(recipe(layer_decay=0.5), images, cpu=True)
    setup.set_lr(0)
    names = {id(parameter): name for name, parameter in setup.model.named_parameters()}
    rate = {names[id(each)]: group["lr"] for group in setup.bare_optimizer.param_groups for each in group["params"]}
    assert setup.set_lr(0) == rate["head.weight"] == pytest.approx(1e-3)
    early, late = rate["blocks.0.mlp.fc1.weight"], rate["blocks.5.mlp.fc1.weight"]
    assert early == pytest.approx(late * 0.5**5)
    assert rate["patch_embed.proj.weight"] < early


def test_label_smoothing_bounds_the_loss_from_below(images):
    logits_BK, labels_B = torch.tensor([[50.0, -50.0]]), torch.tensor([0])
    smooth = Setup(recipe(label_smoothing=0.1), images, cpu=True).bare_task.criterion(logits_BK, labels_B)
    hard = Setup(recipe(), images, cpu=True).bare_task.criterion(logits_BK, labels_B)
    assert float(hard) == pytest.approx(0, abs=1e-6)
    assert float(smooth) == pytest.approx(0.05 * 100, rel=1e-4)  # half of the 0.1 goes to the wrong class


def test_the_rate_warms_up_and_falls_to_its_minimum(images, tmp_path):
    fields = {"epochs": 4, "warmup_epochs": 1, "warmup_lr": 1e-5, "min_lr": 1e-4, "batch_size": 8}
    run_recipe(recipe(**fields, lr_batch=16), images, tmp_path / "out", cpu=True)  # so that all are halved
    rates = [line["lr"] for line in lines(tmp_path / "out")]
    assert rates[0] == pytest.approx(1e-5)
    assert rates[1] - rates[0] == pytest.approx(rates[2] - rates[1])
    middle = 0.5e-4 + (5e-4 - 0.5e-4) * 0.5 * (1 + math.cos(math.pi * 6 / 12))
    assert rates[6] == pytest.approx(middle)
    assert rates[3:] == sorted(rates[3:], reverse=True)


def test_the_keep_rate_of_each_update_is_what_the_blocks_use(images, tmp_path, monkeypatch):
    counts = []
    backward = loop.Trainer._backward

    def look(self, *args):
        last = self.setup.model.blocks[-1]
        handle = last.norm2.register_forward_hook(lambda *found: counts.append(found[2].shape[1]))
        backward(self, *args)
        handle.remove()

    monkeypatch.setattr(loop.Trainer, "_backward", look)
    wanted = recipe(
        img_size=64, epochs=2, method="evit", settings={"keep_rate": 0.5, "layers": [2]}, keep_rate_epochs=1
    )
    run_recipe(wanted, images, tmp_path / "out", cpu=True)
    rates = [line["keep_rate"] for line in lines(tmp_path / "out")]
    assert rates == [pytest.approx([rate]) for rate in (1, 0.875, 0.625, 0.5, 0.5, 0.5)]
    assert counts == [17, 16, 12, 10, 10, 10]  # of 16 patches, the class token and the fused token beside them


def test_compile_trains(images, tmp_path, monkeypatch):
    compiled = []
    original = torch.nn.Module.compile

    def eagerly(self, *args, **kwargs):  # captured and run, but no machine code made
        compiled.append(type(self).__name__)
        return original(self, *args, **kwargs, backend="eager")

    monkeypatch.setattr(torch.nn.Module, "compile", eagerly)
    wanted = recipe(epochs=0.67, compile=True, method="evit", settings={"keep_rate": 0.5}, img_size=64)
    run_recipe(wanted, images, tmp_path / "compiled", cpu=True)
    assert compiled == ["ClassificationTask"]
    run_recipe(Recipe(**vars(wanted) | {"compile": False}), images, tmp_path / "plain", cpu=True)
    assert losses(tmp_path / "compiled") == pytest.approx(losses(tmp_path / "plain"), abs=1e-5)


def test_tensorboard_has_every_number_once_even_after_a_resume(images, tmp_path, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    wanted = recipe(
        method="metr",
        settings={"keep_rate": 0.5},
        img_size=64,
        tensorboard=True,
        checkpoint_every=2,
        keep_rate_epochs=1,
    )
    output, update = tmp_path / "out", loop.Trainer._update

    def stop(self, parts):
        if self.step == 3:
            raise KeyboardInterrupt
        update(self, parts)

    with monkeypatch.context() as patches:
        patches.setattr(loop.Trainer, "_update", stop)
        with pytest.raises(KeyboardInterrupt):
            run_recipe(wanted, images, output, cpu=True)
    for place in (output / "checkpoints").glob("step-00000003"):
        place.rename(tmp_path / "gone")  # so that update 3 is made twice
    run_recipe(wanted, images, output, cpu=True)
    board = EventAccumulator(str(output / "tensorboard"), purge_orphaned_data=True).Reload()
    assert set(board.Tags()["scalars"]) == {
        "loss", "loss/class", "loss/exits", "loss/distillation", "lr", "images_per_s", "keep_rate", "accuracy/top1",
    }  # fmt: skip
    told = {event.step: event.value for event in board.Scalars("loss")}
    assert [event.step for event in board.Scalars("loss")] == [1, 2, 3, 4, 5, 6]
    assert [told[i + 1] for i in range(6)] == pytest.approx(losses(output), rel=1e-6)
    assert [event.step for event in board.Scalars("accuracy/top1")] == [3, 6]
