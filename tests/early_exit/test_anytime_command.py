"""`vitrim anytime`: its table, its file, and what it refuses."""

from __future__ import annotations

import pytest
from safetensors.torch import save_file

import vitrim
from vitrim.cli import app

NAME = "vit_tiny_patch16_224"


@pytest.fixture
def trained(tmp_path):
    """A checkpoint with exit heads and 10 classes."""
    model = vitrim.build_model(NAME, img_size=32, num_classes=10)
    vitrim.reduce_tokens(model, vitrim.METR(method=vitrim.EViT(keep_rate=0.7)))
    path = tmp_path / "metr.safetensors"
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, path)
    return path


def command(capsys, *args, code=0):
    with pytest.raises(SystemExit) as end:
        app([str(arg) for arg in args])
    out, err = capsys.readouterr()
    assert end.value.code == code, err
    return out if code == 0 else err


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    from PIL import Image

    place = tmp_path_factory.mktemp("images")
    for label in range(10):
        (place / f"class{label}").mkdir()
        for i in range(2):
            Image.new("RGB", (40, 40), (label * 25, i * 200, 90)).save(place / f"class{label}" / f"{i}.png")
    return place


def test_the_command_prints_one_table_and_writes_it(capsys, trained, folder, tmp_path):
    args = ("anytime", NAME, "--checkpoint", trained, "--images", folder, "--img-size", 32)
    fast = ("--static", "0.5", "--threshold", "0.05,0.9", "--target-drop", "50", "--rounds", 1, "--timing-images", 4)
    out = command(capsys, *args, *fast, "--output", tmp_path / "out.csv")
    assert "no exits, keep 0.5" in out and "after 3" in out and "on new ones" in out
    lines = (tmp_path / "out.csv").read_text().splitlines()
    assert lines[0].startswith(
        "setting,top1,share_after_3,share_after_6,share_after_9,share_at_the_end,gmacs,images_per"
    )
    assert len(lines) >= 5 and lines[3].startswith("confidence 0.05,") and ",100.0,0.0,0.0,0.0," in lines[3]


def test_the_command_says_in_one_line_what_is_missing(capsys, folder, tmp_path):
    plain = tmp_path / "plain.safetensors"
    save_file(vitrim.build_model(NAME, img_size=32, num_classes=10).state_dict(), plain)
    err = command(capsys, "anytime", NAME, "--checkpoint", plain, "--images", folder, code=2)
    assert "has no exit heads" in err and err.count("\n") == 1
    assert "pass --checkpoint" in command(capsys, "anytime", NAME, "--images", folder, code=2)
    assert "pass --images" in command(capsys, "anytime", NAME, "--checkpoint", plain, code=2)


def test_a_wrapped_model_is_evaluated_like_any_other(folder):
    model = vitrim.build_model(NAME, img_size=32, num_classes=10)
    vitrim.reduce_tokens(model, vitrim.METR(method=vitrim.EViT(keep_rate=0.7)))
    assert vitrim.evaluate_folder(vitrim.anytime(model, 0.1), folder).num_images == 20


def test_the_command_takes_a_method_with_its_settings(capsys, trained, folder):
    args = ("anytime", NAME, "--checkpoint", trained, "--images", folder, "--img-size", 32, "--threshold", "0.5")
    fast = ("--rounds", 1, "--timing-images", 2, "--limit", 4)
    told = command(capsys, *args, *fast, "--method", "evit fuse=false keep_rate=0.5")
    assert "no exits" in told and told != command(capsys, *args, *fast, "--method", "evit keep_rate=1.0")
    twice = command(capsys, *args, "--method", "evit keep_rate=0.5", "--keep-rate", 0.7, code=2)
    assert "leave out keep_rate" in twice
    assert "give one method" in command(capsys, *args, "--method", "evit keep_rate=0.5,0.7", code=2)
