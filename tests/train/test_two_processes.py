"""Two processes that share each batch compute what one does; so do accumulated parts, and shards of the weights."""

import json
import re
from pathlib import Path

import pytest
from small_run import FIELDS, lines, losses, make_images, recipe

import fresh
from vitrim.train import checkpoint
from vitrim.train.recipe import Recipe
from vitrim.train.run_recipe import run_recipe

pytestmark = pytest.mark.xdist_group("two_processes")  # their runs are made once, for all tests here

SCRIPT = Path(__file__).with_name("two_processes.py")
EVIT = FIELDS | {"method": "evit", "settings": {"keep_rate": 0.5}, "img_size": 64, "clip_grad": 0.5}
RECIPES = {
    "ddp": EVIT | {"checkpoint_every": 4, "_copy": 4},
    "fsdp": EVIT | {"checkpoint_every": 4, "sharding": "fsdp", "_copy": 4},
    "accumulated": EVIT | {"accumulate": 2},
    "corrupt": EVIT | {"epochs": 1, "_data": "corrupt"},
    "learning": EVIT
    | {"method": "beyond_attentive", "settings": {"keep_rate": 0.5, "inattentive": "conv"}, "keep_rate_start": 1},
    "odd": FIELDS | {"batch_size": 6, "mixup": 0.5},
}
DDP = Recipe(**EVIT | {"checkpoint_every": 4})


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The folders of all runs by two processes, and the report of each process."""
    place = tmp_path_factory.mktemp("two")
    make_images(place / "data")
    make_images(place / "corrupt")
    for name in ("train/bird/03.png", "train/cat/05.png", "val/cat/01.png"):
        (place / "corrupt" / name).write_bytes(b"no image")
    (place / "recipes.json").write_text(json.dumps(RECIPES))
    done = fresh.run([str(SCRIPT), str(place)])
    assert done.returncode == 0, done.stderr[-2000:]
    return place


@pytest.fixture(scope="module")
def reported(place):
    found = [json.loads((place / f"report-{rank}.json").read_text()) for rank in (0, 1)]
    assert all(each["world_size"] == 2 for each in found)
    return found[0]


@pytest.fixture(scope="module")
def alone(place):
    """The same recipe, run by this process."""
    summary = run_recipe(Recipe(**EVIT), place / "data", place / "alone", cpu=True)
    assert summary["processes"] == 1
    return losses(place / "alone")


def test_two_processes_have_the_loss_curve_of_one_with_the_same_batch(reported, alone, place):
    assert reported["ddp"]["processes"] == 2
    assert len(alone) == 6
    assert max(alone) - min(alone) > 0.05  # a curve, not a line
    assert losses(place / "ddp") == pytest.approx(alone, abs=1e-4)
    assert lines(place / "ddp")[-1]["accuracy"] == lines(place / "alone")[-1]["accuracy"]


def test_accumulated_parts_have_the_loss_curve_of_the_whole_batch(reported, alone, place):
    assert reported["accumulated"]["processes"] == 2
    assert losses(place / "accumulated") == pytest.approx(alone, abs=1e-4)
    run_recipe(Recipe(**EVIT | {"accumulate": 4}), place / "data", place / "four", cpu=True)
    assert losses(place / "four") == pytest.approx(alone, abs=1e-5)


def test_a_run_of_two_processes_is_gone_on_with_by_one(reported, alone, place):
    assert reported["ddp"]["processes"] == 2
    assert len(losses(place / "ddp_stopped")) == 4
    run_recipe(DDP, place / "data", place / "ddp_stopped", cpu=True)
    assert losses(place / "ddp_stopped") == pytest.approx(alone, abs=1e-4)


def test_sharded_weights_have_the_loss_curve_of_whole_ones(reported, alone, place):
    assert reported["fsdp"]["processes"] == 2
    assert reported["fsdp"]["sharded"] > 0.9  # share of the parameters that were in shards
    assert reported["ddp"]["sharded"] == 0
    assert losses(place / "fsdp") == pytest.approx(alone, abs=1e-4)
    assert lines(place / "fsdp")[-1]["accuracy"] == lines(place / "alone")[-1]["accuracy"]


def test_a_checkpoint_of_shards_is_whole_and_goes_on_in_one_process(reported, alone, place):
    assert reported["fsdp"]["processes"] == 2
    assert len(losses(place / "fsdp_stopped")) == 4
    ddp, fsdp = (checkpoint.load(checkpoint.latest(place / name / "checkpoints"))[0] for name in ("ddp", "fsdp"))
    for file in ("model", "optimizer"):
        assert ddp[file].keys() == fsdp[file].keys()
        assert all(ddp[file][key].shape == fsdp[file][key].shape for key in ddp[file])
    recipe_file = place / "fsdp_stopped" / "recipe.json"  # sharding is a field, so a user would copy the checkpoint
    recipe_file.write_text(recipe_file.read_text().replace('"fsdp"', '"ddp"'))
    run_recipe(DDP, place / "data", place / "fsdp_stopped", cpu=True)
    assert losses(place / "fsdp_stopped") == pytest.approx(alone, abs=1e-4)


def test_what_a_method_learns_may_rest_while_the_keep_rate_is_1(reported, place):
    assert reported["learning"]["processes"] == 2
    weights = checkpoint.load(checkpoint.latest(place / "learning" / "checkpoints"))[0]["model"]
    learned = [value for key, value in weights.items() if ".method." in key]
    assert learned and all(value.isfinite().all() for value in learned)


def test_images_that_another_process_could_not_read_are_counted_and_named(reported, place):
    assert reported["corrupt"]["unreadable_images"] == 3
    warnings = (place / "corrupt-out" / "warnings.txt").read_text().splitlines()
    assert len(warnings) == 3


def test_mixup_that_cannot_pair_the_images_of_one_process_is_refused(reported):
    assert re.match("ValueError: recipe: mixup and cutmix.*2 processes.*3", reported["odd"])


def test_fsdp_without_a_launcher_says_so(images, tmp_path):
    with pytest.raises(ValueError, match=r"fsdp.*torchrun"):
        run_recipe(recipe(sharding="fsdp"), images, tmp_path / "out", cpu=True)
    assert not (tmp_path / "out").exists()
