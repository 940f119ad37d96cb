"""NaN and full disks end a run with one sentence, and with its last checkpoint as it was."""

import errno
import math
import os
import re
import subprocess

import pytest
import safetensors.torch
import torch
from safetensors import SafetensorError
from small_run import lines, recipe

from vitrim.train import checkpoint, folder, loop
from vitrim.train.checkpoint import TrainingError
from vitrim.train.run_recipe import run_recipe


def contents(checkpoints):
    """Every file of every checkpoint; a half-written one would show."""
    return {path.relative_to(checkpoints): path.read_bytes() for path in checkpoints.rglob("*") if path.is_file()}


def break_from(monkeypatch, step, broken):
    """Let broken(trainer) act before the update of that number, counted from 1."""
    update = loop.Trainer._update

    def update_broken(self, parts):
        if self.step + 1 == step:
            broken(self)
        update(self, parts)

    monkeypatch.setattr(loop.Trainer, "_update", update_broken)


def poison(trainer):
    with torch.no_grad():
        trainer.setup.model.head.weight.mul_(math.nan)


def run_to_the_stop(monkeypatch, images, output, step, broken, **fields):
    """What is said, and the checkpoints of the updates before."""
    wanted = recipe(epochs=2, **fields)
    with monkeypatch.context() as patches:
        break_from(patches, step, broken)
        with pytest.raises(TrainingError) as error:
            run_recipe(wanted, images, output, cpu=True)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_nan_between_two_log_lines_is_told_with_its_update_and_what_to_do(images, tmp_path, monkeypatch):
    output = tmp_path / "out"
    said = run_to_the_stop(monkeypatch, images, output, 5, poison, log_every=100, checkpoint_every=3)
    assert re.match("the loss is nan at update 5.*lr.*clip_grad", said)
    assert said.endswith(f"{output / 'checkpoints' / 'step-00000003'}.")
    assert [path.name for path in (output / "checkpoints").iterdir()] == ["step-00000003"]
    assert [line["step"] for line in lines(output)] == [3]
    state = checkpoint.load(checkpoint.latest(output / "checkpoints"))[0]
    assert all(value.isfinite().all() for tensors in state.values() for value in tensors.values())
    summary = run_recipe(recipe(epochs=2, log_every=100, checkpoint_every=3), images, output, cpu=True)
    assert summary["updates"] == 6  # the same command goes on


def test_weights_that_the_last_update_broke_are_not_saved(images, tmp_path, monkeypatch):
    def break_gradients(trainer):
        trainer.setup.model.head.bias.register_hook(lambda gradient: gradient * math.inf)

    output = tmp_path / "out"
    said = run_to_the_stop(monkeypatch, images, output, 4, break_gradients, checkpoint_every=1)
    assert re.match(r"after update 4 .*NaN.*head\.bias.*lr", said)
    assert checkpoint.latest(output / "checkpoints").name == "step-00000003"


def test_nan_before_any_checkpoint_says_so(images, tmp_path, monkeypatch):
    said = run_to_the_stop(monkeypatch, images, tmp_path / "out", 1, poison)
    assert "the loss is nan at update 1" in said
    assert "no checkpoint" in said


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), SafetensorError("IO error: 28")])
def test_a_full_disk_leaves_the_last_checkpoint_whole_and_nothing_half(error, images, tmp_path, monkeypatch):
    wanted, output = recipe(epochs=2, checkpoint_every=3), tmp_path / "out"
    write = safetensors.torch.save_file

    def write_until_full(tensors, path):
        write(tensors, path)
        if "00000006" in str(path) and path.stem == "optimizer":
            os.truncate(path, 100)
            raise error

    with monkeypatch.context() as patches:
        patches.setattr(safetensors.torch, "save_file", write_until_full)
        with pytest.raises(TrainingError, match=r"checkpoint of update 6.*step-00000003") as caught:
            run_recipe(wanted, images, output, cpu=True)
    assert "\n" not in str(caught.value)
    assert [path.name for path in (output / "checkpoints").iterdir()] == ["step-00000003"]
    assert run_recipe(wanted, images, output, cpu=True)["updates"] == 6


def test_a_full_disk_while_logging_leaves_the_last_checkpoint_whole(images, tmp_path, monkeypatch):
    wanted, output = recipe(epochs=2), tmp_path / "out"
    dumps = folder.json.dumps

    def full(entry, **options):
        if isinstance(entry, dict) and entry.get("step") == 5:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return dumps(entry, **options)

    with monkeypatch.context() as patches:
        patches.setattr(folder.json, "dumps", full)
        with pytest.raises(TrainingError, match=r"log of .*No space left on device.*step-00000003"):
            run_recipe(wanted, images, output, cpu=True)
    assert run_recipe(wanted, images, output, cpu=True)["updates"] == 6
    assert [line["step"] for line in lines(output)] == [1, 2, 3, 4, 5, 6]


def test_a_disk_that_is_really_full(images, tmp_path):
    place = tmp_path / "small"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(place)], capture_output=True).returncode:
        pytest.skip("may not mount a small disk")
    try:
        wanted, output = recipe(epochs=4, checkpoint_every=3, checkpoints_kept=9), place / "out"
        with pytest.raises(TrainingError, match=r"last checkpoint|no checkpoint") as error:
            run_recipe(wanted, images, output, cpu=True)
        assert "space" in str(error.value).lower() or "28" in str(error.value)
        names = [path.name for path in (output / "checkpoints").iterdir()]
        assert names and all(name.startswith("step-") for name in names)
        state = checkpoint.load(checkpoint.latest(output / "checkpoints"))[1]
        subprocess.run(["mount", "-o", "remount,size=64m", str(place)], check=True)
        assert run_recipe(wanted, images, output, cpu=True)["updates"] == 12
        assert [line["step"] for line in lines(output)] == list(range(1, 13))
        assert state["step"] in (3, 6, 9)
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)
