"""What a run reads back from its folder is checked: state.json, metrics.jsonl, recipe.json, weights."""

import json
import os
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_run import recipe

from vitrim.train.checkpoint import TrainingError, latest
from vitrim.train.loop import Trainer
from vitrim.train.run_recipe import run_recipe

WANTED = {"epochs": 2, "checkpoints_kept": 1, "ema_decay": 0.5}


@pytest.fixture(scope="module")
def finished(images, tmp_path_factory):
    """The folder of a run of 6 updates. Not to be changed."""
    output = tmp_path_factory.mktemp("finished") / "out"
    run_recipe(recipe(**WANTED), images, output, cpu=True)
    return output


@pytest.fixture
def again(finished, images, tmp_path):
    """Goes on with a copy of the run in which something was changed; the folder's path is its attribute."""
    shutil.copytree(finished, tmp_path / "out")

    def run():
        return run_recipe(recipe(**WANTED), images, tmp_path / "out", cpu=True)

    run.output = tmp_path / "out"
    run.checkpoint = latest(tmp_path / "out" / "checkpoints")
    return run


@pytest.mark.parametrize(
    ("entry", "value", "told"),
    [
        ("step", "six", "step.*six"),
        ("step", 5, "update 5"),
        ("step", 10**400, "step "),
        ("seconds", float("nan"), "seconds.*nan"),
        ("unreadable", ["a.png"], r"unreadable .*a\.png"),
        ("accuracy", {"top1": 101}, "accuracy .*101"),
        ("optimizer", {"values": {}}, "optimizer .*values"),
        ("optimizer", {"values": {}, "groups": [{"lr": [1]}]}, "optimizer .*values"),
        ("optimizer", {"values": {}, "groups": []}, "0 groups"),
        ("scaler", 5, "scaler.*5"),
        (None, [], "object"),
    ],
)
def test_a_state_that_no_run_writes_is_refused(again, entry, value, told):
    file = again.checkpoint / "state.json"
    file.write_text(json.dumps(value if entry is None else json.loads(file.read_text()) | {entry: value}))
    with pytest.raises(TrainingError, match=told) as error:
        again()
    assert "\n" not in str(error.value) and len(str(error.value)) < 500


@pytest.mark.parametrize(
    ("file", "change", "told"),
    [
        ("model", lambda each: each.long(), "norm.weight.*dtype"),
        ("model", lambda each: each * float("nan"), "model.safetensors.*NaN.*norm.weight"),
        ("model", lambda each: each[:-1].clone(), "norm.weight.*shape"),
        ("ema", None, "ema.safetensors"),
    ],
)
def test_weights_that_no_run_writes_are_refused(again, file, change, told):
    path = again.checkpoint / f"{file}.safetensors"
    tensors = load_file(path)
    path.unlink()
    if change is not None:
        save_file(tensors | {"norm.weight": change(tensors["norm.weight"])}, path)
    with pytest.raises(TrainingError, match=told):
        again()


@pytest.mark.parametrize("line", ["5", '{"step": 1}', "no json", "[" * 10**5])
def test_a_line_of_the_log_that_no_run_writes_is_refused_and_a_last_one_cut_off_is_left_out(again, line):
    log = again.output / "metrics.jsonl"
    lines = log.read_text().splitlines()
    log.write_text("\n".join([lines[0], line, *lines[1:]]) + "\n")
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 2"):
        again()
    log.write_text("\n".join(lines) + '\n{"step": 7, "lo')
    assert again()["updates"] == 6
    assert log.read_text().splitlines() == lines


def test_a_recipe_in_the_folder_that_is_odd_is_told_in_a_short_line(again):
    file = again.output / "recipe.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"lr": "x\x1b" * 10**5}))
    with pytest.raises(ValueError, match=r"recipe.*lr was 'x") as error:
        again()
    assert len(str(error.value)) < 1000 and "\x1b" not in str(error.value)
    for content in ("[]", "[" * 10**5, "no json"):
        file.write_text(content)
        with pytest.raises(ValueError, match=r"recipe\.json"):
            again()


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "), "killed"),
        (torch.OutOfMemoryError("CUDA out of memory."), "memory.*batch_size"),
    ],
)
def test_a_lost_worker_and_short_memory_name_the_last_checkpoint(again, monkeypatch, error, told):
    def fail(*_):
        raise error

    monkeypatch.setattr(Trainer, "_batches", fail)
    with pytest.raises(TrainingError, match=told) as caught:
        again()
    assert str(caught.value).endswith(f"{again.checkpoint}.")
    assert os.path.isdir(again.checkpoint)


@pytest.mark.parametrize("value", [float("inf"), float("nan"), -1.0, 1e300])
@pytest.mark.parametrize("field", ["lr", "min_lr", "weight_decay", "epochs", "mixup", "layer_decay", "clip_grad"])
def test_numbers_of_a_recipe_out_of_all_range_are_refused(field, value):
    with pytest.raises(ValueError, match=f"recipe: {field} must be") as error:
        recipe(**{field: value})
    assert len(str(error.value)) < 200


@pytest.mark.parametrize(
    "field", ["batch_size", "workers", "accumulate", "img_size", "num_classes", "lr_batch", "seed"]
)
def test_counts_of_a_recipe_out_of_all_range_are_refused(field):
    for value in (10**400, -(10**6), 1.5, True):
        with pytest.raises(ValueError, match=rf"{field} must be") as error:
            recipe(**{field: value})
        assert len(str(error.value)) < 300
