"""`vitrim train` with everything that a user can get wrong: one clear line, a code, and nothing overwritten."""

import json
import os
import pickle
import re

import pytest
import torch
from safetensors.torch import save_file
from small_run import FIELDS, make_images

import fresh
from vitrim.cli import app
from vitrim.train import checkpoint, loop, run_recipe

RECIPE = (
    "from vitrim import Recipe\n\nRECIPE = Recipe(\n" + "".join(f"    {k}={v!r},\n" for k, v in FIELDS.items()) + ")\n"
)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "recipe.py"
    path.write_text(RECIPE)
    return path


@pytest.fixture
def train(file, images, tmp_path, capsys):
    """Runs vitrim train; returns the exit code, standard output and the one line of error."""

    def call(*options, recipe=file, data=images, output=tmp_path / "out"):
        with pytest.raises(SystemExit) as exit:
            app(["train", str(recipe), "--data", str(data), "--output", str(output), "--cpu", *map(str, options)])
        out, err = capsys.readouterr()
        return exit.value.code or 0, out, err

    return call


@pytest.fixture
def refused(train, tmp_path):
    """Runs vitrim train; the one line of its error, after which there is no output folder."""

    def call(*options, **others):
        code, _, err = train(*options, **others)
        assert code == 2
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        assert not (tmp_path / "out").exists()
        return err.removeprefix("error: ").strip()

    return call


def test_a_run_tells_loss_rate_time_left_and_accuracy(train, tmp_path):
    code, out, err = train("--epochs", "1", "--method=evit", "--settings.keep_rate", "0.5", "--keep-rate-epochs=1")
    assert (code, err) == (0, "")
    first, *_, last, scores, where = out.splitlines()
    assert first.startswith("1/3  loss ")
    assert "lr 1.00e-03  keep rate 1.000" in first
    assert "images/s" in first and " left" in first
    assert last.startswith("3/3") and "top1 " in last
    assert scores.startswith("top1 ") and "on 6 images; 3 updates" in scores
    assert str(tmp_path / "out" / "model") in where
    assert json.loads((tmp_path / "out" / "recipe.json").read_text())["settings"] == {"keep_rate": 0.5}


def test_show_prints_every_field_with_the_changes(train, tmp_path):
    code, out, _ = train(
        "--show", "--lr=2e-4", "--crop-scale", "[0.5, 1]", "--compile", "true", "--num-classes", "none"
    )
    assert code == 0
    shown = dict(line.split(" = ", 1) for line in out.splitlines())
    assert shown["lr"] == "0.0002"
    assert shown["crop_scale"] == "[0.5, 1]"
    assert (shown["compile"], shown["num_classes"]) == ("True", "None")
    assert shown.keys() >= FIELDS.keys()
    assert not (tmp_path / "out").exists()


def test_help_lists_every_field_with_its_default():
    from dataclasses import fields

    from vitrim.cli.train import recipe_fields
    from vitrim.train.recipe import Recipe

    listed = {name: default for name, default, _ in recipe_fields() if default}
    assert list(listed) == [entry.name for entry in fields(Recipe)]
    assert listed["lr"] == "5e-4"
    with pytest.raises(SystemExit):
        app(["train", "--help"])


def test_help_shows_the_fields(capsys):
    with pytest.raises(SystemExit):
        app(["train", "--help"])
    out = capsys.readouterr().out
    assert "--keep-rate-epochs" in out and "half cosine" in out and "Optimisation" in out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--lrr", 1), "'lrr'.*did you mean lr"),
        (("--lr",), "--field value.*'--lr'"),
        (("lr", 1), "--field value.*'lr'"),
        (("--lr", "fast"), "lr must be.*'fast'"),
        (("--lr", "NaN"), "lr must be.*nan"),
        (("--epochs", 0), "epochs must be.*at least 0.001"),
        (("--batch-size", 2.5), "batch_size must be.*2.5"),
        (("--compile", 1), "compile must be.*1"),
        (("--img-size", "[32, 32]"), "img_size must be.*none"),
        (("--crop-scale", "[1.0, 0.5]"), "crop_scale.*1.0, 0.5"),
        (("--crop-scale", 0.5), "crop_scale.*two numbers"),
        (("--settings", 5), "settings must be.*5"),
        (("--clip-grad", 0), "clip_grad must be"),
        (("--layer-decay", 2), "layer_decay must be"),
        (("--schedule", "plateau"), "schedule must be.*cosine, tanh"),
        (("--precision", "fp64"), "precision must be.*fp32, bf16"),
        (("--precision", "fp16"), "fp16.*GPU"),
        (("--sharding", "fsdp"), "fsdp.*torchrun"),
        (("--model", "test_vitt"), "test_vit"),
        (("--optimizer", "adamww"), "adamww"),
        (("--auto-augment", "bogus"), "auto_augment"),
        (("--auto-augment", "rand-m9-mstdinf"), "auto_augment.*mstdinf"),
        (("--method", "evitt"), "evit"),
        (("--method", "evit", "--settings.keep", 1), "keep"),
        (("--settings.keep_rate", 0.5), "method is None"),
        (("--method", "tome", "--settings.r", 1, "--img-size", 64, "--keep-rate-epochs", 1), "tome.*keep rate"),
        (("--batch-size", 25), "24 training images.*batch of 25"),
        (("--batch-size", 6, "--accumulate", 4), "6 .*4 accumulated"),
        (("--batch-size", 3, "--mixup", 1), "mixup and cutmix"),
        (("--num-classes", 5), "2 class folders"),
    ],
)
def test_a_recipe_that_makes_no_sense_is_refused_in_one_line(options, said, refused):
    assert re.search(said, refused(*options))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("RECIPE = ", "recipe.py, line 1.*Python"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("import no_such_library", "ModuleNotFoundError: No module named 'no_such_library'"),
        ("recipe = 1", "RECIPE"),
        ("RECIPE = {'lr': 1}", "RECIPE"),
        ("from vitrim import Recipe\nRECIPE = Recipe(lrr=1)", "unexpected keyword argument 'lrr'"),
        ("from vitrim import Recipe\nRECIPE = Recipe(model='test_vit', lr='x')", "lr must be.*'x'"),
        ("from vitrim import Recipe\nRECIPE = Recipe()", "model"),
        (
            "from vitrim import Recipe\nRECIPE = Recipe(model='test_vit', method='evit', settings={1: 2})",
            "settings must",
        ),
    ],
)
def test_a_file_that_is_no_recipe_is_refused(text, said, refused, file):
    file.write_text(text)
    found = refused()
    assert re.search(said, found)
    assert "recipe.py" in found


def test_a_recipe_that_is_not_there_or_no_python_is_refused(refused, tmp_path):
    assert "no recipe" in refused(recipe=tmp_path / "none.py")
    (tmp_path / "recipe.txt").write_text(RECIPE)
    assert "not a recipe" in refused(recipe=tmp_path / "recipe.txt")
    assert "no recipe" in refused(recipe=tmp_path)


def test_data_that_does_not_fit_is_refused(refused, tmp_path):
    assert "no folder" in refused(data=tmp_path / "none")
    (tmp_path / "data" / "train").mkdir(parents=True)
    assert "no classes" in refused(data=tmp_path / "data")
    make_images(tmp_path / "other")
    (tmp_path / "other" / "train" / "dog").mkdir()
    assert "train/dog" in refused(data=tmp_path / "other")
    (tmp_path / "other" / "train" / "dog").rmdir()
    (tmp_path / "other" / "val" / "cat").rename(tmp_path / "other" / "val" / "dog")
    assert re.search("train and val.*cat", refused(data=tmp_path / "other"))
    os.rename(tmp_path / "other" / "val", tmp_path / "other" / "valid")
    assert "no folder" in refused(data=tmp_path / "other")


def test_weights_that_do_not_fit_are_refused_and_no_code_in_them_runs(refused, tmp_path):
    assert "no checkpoint" in refused("--checkpoint", tmp_path / "none.safetensors")
    other = tmp_path / "other.safetensors"
    save_file({"weight": torch.zeros(3)}, other)
    assert "checkpoint of test_vit" in refused("--checkpoint", other)
    os.truncate(other, 20)
    assert "safetensors file" in refused("--checkpoint", other)

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "hacked"),)

    for name, write in (("a.pth", torch.save), ("b.pth", lambda each, path: path.write_bytes(pickle.dumps(each)))):
        write({"model": Evil()}, tmp_path / name)
        assert "safe to load" in refused("--checkpoint", tmp_path / name)
    assert not (tmp_path / "hacked").exists()


def snapshot(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


def test_a_run_of_another_recipe_or_other_images_is_not_touched(train, tmp_path):
    assert train("--epochs", 1)[0] == 0
    before = snapshot(tmp_path / "out")
    code, _, err = train("--epochs", 1, "--lr", 0.5, "--seed", 1)
    assert code == 2
    assert re.search("lr was 0.001.*0.5.*seed was 0.*1", err)
    other = make_images(tmp_path / "other", train=13)
    assert re.search("train_images was 24.*26", train("--epochs", 1, data=other)[2])
    (tmp_path / "other" / "train" / "cat" / "00.png").rename(tmp_path / "other" / "train" / "cat" / "13.png")
    assert snapshot(tmp_path / "out") == before
    assert train("--epochs", 1, "--log-every", 5, "--workers", 1)[0] == 0  # how, and not what


def test_an_output_that_holds_something_else_is_not_touched(train, tmp_path):
    place = tmp_path / "out"
    place.mkdir()
    (place / "thesis.txt").write_text("all of it")
    code, _, err = train()
    assert code == 2 and "not empty" in err
    assert [path.name for path in place.iterdir()] == ["thesis.txt"]
    code, _, err = train(output=place / "thesis.txt")
    assert code == 2 and "is a file" in err
    (place / "thesis.txt").rename(place / "recipe.json")
    code, _, err = train()
    assert code == 2 and "recipe.json" in err
    assert (place / "recipe.json").read_text() == "all of it"


def test_two_runs_at_once_in_one_folder_are_kept_apart(train, tmp_path, monkeypatch):
    from vitrim.store import locked

    monkeypatch.setattr(run_recipe, "PATIENCE", 0.5)
    with locked(tmp_path / "out"):
        code, _, err = train()
    assert code == 2
    assert f"process {os.getpid()}" in err and "folder" in err
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".lock"]
    assert train("--epochs", 1)[0] == 0


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_images_are_named_skipped_and_counted_once(workers, train, tmp_path):
    data = make_images(tmp_path / "data")
    for name in ("train/bird/03.png", "train/cat/05.png", "val/cat/01.png"):
        (data / name).write_bytes(b"no image")
    code, out, err = train("--epochs", 3, "--workers", workers, data=data)
    assert (code, err) == (0, "")
    assert "3 images" in out and str(tmp_path / "out" / "warnings.txt") in out
    warned = sorted((tmp_path / "out" / "warnings.txt").read_text().splitlines())
    bad = ("train/bird/03.png", "train/cat/05.png", "val/cat/01.png")
    assert all(f"{data}/{name} " in line for name, line in zip(bad, warned, strict=True))
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["unreadable_images"] == 3


@pytest.mark.parametrize("workers", [0, 1])
def test_images_that_are_all_corrupt_end_the_run_in_one_line(workers, train, tmp_path):
    data = make_images(tmp_path / "data", train=5)
    for path in (data / "train").rglob("*.png"):
        path.write_bytes(b"no image")
    code, _, err = train("--workers", workers, data=data)
    assert code == 2
    assert err.count("\n") == 1
    assert "10 training images" in err


def test_validation_images_that_are_all_corrupt_end_the_run_in_one_line(train, tmp_path):
    data = make_images(tmp_path / "data")
    for path in (data / "val").rglob("*.png"):
        path.write_bytes(b"no image")
    code, _, err = train(data=data)
    assert code == 2 and "6 images" in err and err.count("\n") == 1


def test_a_run_that_cannot_go_on_ends_in_one_line(train, monkeypatch):
    def fail(*_):
        raise checkpoint.TrainingError("the loss is nan at update 3.")

    monkeypatch.setattr(loop.Trainer, "run", fail)
    code, _, err = train()
    assert (code, err) == (2, "error: the loss is nan at update 3.\n")


def test_without_the_extra_training_says_what_to_install(file, images, tmp_path):
    code = "import sys; sys.modules['accelerate'] = None; from vitrim.cli import app; app(sys.argv[1:])"
    done = fresh.run(["-c", code, "train", str(file), "--data", str(images), "--output", str(tmp_path / "out")])
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert 'pip install "vitrim[train]"' in done.stderr
