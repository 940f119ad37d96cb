"""A run that is killed and started again computes the same numbers as one that is not."""

import json
import os
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small_run import EVERYTHING, FIELDS, lines, recipe

import fresh
from vitrim.train import checkpoint, loop
from vitrim.train.checkpoint import TrainingError
from vitrim.train.recipe import Recipe
from vitrim.train.run_recipe import run_recipe

SCRIPT = Path(__file__).with_name("killed_run.py")


class Stop(Exception):
    """The run ends here."""


def stop_after(monkeypatch, step):
    """End the next runs right after the checkpoint of that update."""
    save = loop.Trainer._save

    def save_and_stop(self):
        save(self)
        if self.step == step:
            raise Stop

    monkeypatch.setattr(loop.Trainer, "_save", save_and_stop)


def run_and_stop(monkeypatch, wanted, data, output, step):
    with monkeypatch.context() as patches:
        stop_after(patches, step)
        with pytest.raises(Stop):
            run_recipe(wanted, data, output, cpu=True)


def assert_same(one: Path, other: Path) -> None:
    """Logs, and every tensor and number of the newest checkpoint, are the same to the last bit."""
    assert lines(one) == lines(other)
    paths = [checkpoint.latest(output / "checkpoints") for output in (one, other)]
    assert paths[0].name == paths[1].name
    files = [sorted(path.name for path in folder.iterdir()) for folder in paths]
    assert files[0] == files[1]
    for name in files[0]:
        if name.endswith(".safetensors"):
            mine, theirs = (load_file(folder / name) for folder in paths)
            assert mine.keys() == theirs.keys()
            assert [key for key in mine if not torch.equal(mine[key], theirs[key])] == []
    states = [json.loads((folder / "state.json").read_text()) | {"seconds": 0} for folder in paths]
    assert states[0] == states[1]


def run_until_killed(data, output, fields, when, number):
    done = fresh.run([str(SCRIPT), str(data), str(output), json.dumps(fields), when, str(number)])
    assert done.returncode == -signal.SIGKILL, done.stderr[-500:]


def alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks for worker processes in /proc")
def test_a_run_killed_twice_ends_in_the_same_numbers_as_one_that_ran_through(images, tmp_path):
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    run_recipe(Recipe(**EVERYTHING), images, straight, cpu=True)
    assert [line["step"] for line in lines(straight)] == list(range(1, 16))

    run_until_killed(images, killed, EVERYTHING, "writing", 10)  # the checkpoint of this update
    (left,) = (killed / "checkpoints").glob(".vitrim-*")
    assert any(left.iterdir())
    assert checkpoint.latest(killed / "checkpoints").name == "step-00000009"

    run_until_killed(images, killed, EVERYTHING | {"workers": 1}, "line", 12)
    workers = [int(each) for each in (tmp_path / "workers.txt").read_text().split()]
    assert workers

    run_recipe(Recipe(**EVERYTHING), images, killed, cpu=True)
    assert_same(straight, killed)
    assert not list((killed / "checkpoints").glob(".vitrim-*"))
    until = time.monotonic() + 30
    while any(map(alive, workers)) and time.monotonic() < until:
        time.sleep(0.1)
    assert not any(map(alive, workers))


def test_a_run_goes_on_in_the_middle_of_an_epoch_with_another_number_of_workers(images, tmp_path, monkeypatch):
    wanted = recipe(checkpoint_every=2, mixup=0.5)
    run_recipe(wanted, images, tmp_path / "straight", cpu=True)
    run_and_stop(monkeypatch, wanted, images, tmp_path / "stopped", 2)
    run_recipe(wanted.override({"workers": 2}), images, tmp_path / "stopped", cpu=True)
    assert_same(tmp_path / "straight", tmp_path / "stopped")


def test_a_run_killed_before_its_first_checkpoint_starts_anew_without_duplicate_lines(images, tmp_path, monkeypatch):
    wanted, output = recipe(epochs=1), tmp_path / "out"

    def fail(*_):
        raise Stop

    with monkeypatch.context() as patches:
        patches.setattr(loop.Trainer, "_save", fail)
        with pytest.raises(Stop):
            run_recipe(wanted, images, output, cpu=True)
    with (output / "metrics.jsonl").open("a") as log:
        log.write('{"step": 4, "lo')  # cut off
    run_recipe(wanted, images, output, cpu=True)
    assert [line["step"] for line in lines(output)] == [1, 2, 3]


def test_a_finished_run_is_told_again_without_an_update(images, tmp_path, monkeypatch):
    wanted, output = recipe(epochs=1), tmp_path / "out"
    first = run_recipe(wanted, images, output, cpu=True)
    logged = (output / "metrics.jsonl").read_text()
    monkeypatch.setattr(loop.Trainer, "_update", None)  # any update would fail
    assert run_recipe(wanted, images, output, cpu=True) == first
    assert (output / "metrics.jsonl").read_text() == logged


def test_only_the_last_checkpoints_are_kept(images, tmp_path):
    run_recipe(recipe(epochs=1, checkpoint_every=1, checkpoints_kept=2), images, tmp_path / "out", cpu=True)
    assert sorted(path.name for path in (tmp_path / "out/checkpoints").iterdir()) == ["step-00000002", "step-00000003"]


def test_a_checkpoint_that_was_damaged_is_named_and_the_one_before_serves(images, tmp_path):
    wanted, output = recipe(epochs=1, checkpoint_every=1), tmp_path / "out"
    run_recipe(wanted, images, output, cpu=True)
    newest = checkpoint.latest(output / "checkpoints")
    before = lines(output)
    os.truncate(newest / "model.safetensors", 1000)
    with pytest.raises(TrainingError, match=f"{newest.name} cannot be read.*earlier"):
        run_recipe(wanted, images, output, cpu=True)
    for path in newest.iterdir():
        path.unlink()
    newest.rmdir()
    run_recipe(wanted, images, output, cpu=True)
    assert lines(output) == before


def test_a_checkpoint_of_another_model_is_refused(images, tmp_path):
    run_recipe(recipe(epochs=1), images, tmp_path / "out", cpu=True)
    file = tmp_path / "out" / "recipe.json"
    file.write_text(file.read_text().replace('"img_size": 32', '"img_size": 64'))
    with pytest.raises(TrainingError, match=r"another model.*pos_embed.*shape"):
        run_recipe(Recipe(**FIELDS | {"img_size": 64, "epochs": 1}), images, tmp_path / "out", cpu=True)
