"""A saved folder as the model of other parts, and of the commands."""

from __future__ import annotations

import copy
import json
import stat
from dataclasses import replace

import pytest
import torch
from saved_models import built, method_of, outputs, reduced

import vitrim
from small_job import save_images
from vitrim.backbones.reader import find_stack, read_backbone
from vitrim.cli import app
from vitrim.core.notice import VitrimWarning
from vitrim.loading.build import build_model, load_model
from vitrim.measure.evaluate import Score
from vitrim.methods import ToMe

SAYS = "metr over evit.*vitrim.from_pretrained"


def test_load_model_takes_a_folder_with_all_its_tokens_and_says_so(saved, tmp_path):
    with pytest.warns(VitrimWarning, match=SAYS) as said:
        model = load_model(str(saved))
    assert len(said) == 1
    assert find_stack(model) is None
    assert torch.equal(outputs(model), outputs(built()))
    with pytest.warns(VitrimWarning, match=SAYS):
        assert load_model(str(saved), img_size=48)(torch.zeros(1, 3, 48, 48)).shape == (1, 7)
    plain = vitrim.save_pretrained(built(), tmp_path / "plain")
    assert torch.equal(outputs(load_model(plain)), outputs(built()))  # and no word, for nothing is left out
    with pytest.raises(ValueError, match=r"saved model.*weights"):
        load_model(str(saved), saved / "model.safetensors")


def test_reducing_a_loaded_model_differently_is_the_same_as_before_saving(saved):
    loaded = vitrim.reduce_tokens(vitrim.from_pretrained(saved), "evit", keep_rate=0.3)
    assert torch.equal(outputs(loaded), outputs(reduced(keep_rate=0.3)))
    assert read_backbone(loaded).spec == read_backbone(copy.deepcopy(built())).spec
    assert replace(method_of(loaded), keep_rate=0.3) == replace(method_of(reduced()), keep_rate=0.3)


def command(capsys, *args):
    """What a command printed, on both streams; it must succeed."""
    with pytest.raises(SystemExit) as end:
        app(list(map(str, args)))
    out, err = capsys.readouterr()
    assert end.value.code == 0, err
    return out, err


def test_evaluate_takes_a_folder_as_it_was_saved_unless_a_method_is_given(tmp_path, saved, capsys):
    data = save_images(tmp_path / "images")
    as_saved, _ = command(capsys, "evaluate", "--model", saved, "--data", data)
    with pytest.warns(VitrimWarning, match=SAYS):
        otherwise, _ = command(capsys, "evaluate", "--model", saved, "--data", data, "--method", "tome", "--r", "5")
    assert as_saved.startswith(f"{saved}, evit as it was saved: top-1 ")
    assert otherwise.startswith(f"{saved}, tome r 5: top-1 ")
    hits = vitrim.evaluate_folder(vitrim.from_pretrained(saved), data).top1
    assert f"top-1 {hits:.2f} %" in as_saved


def test_evaluate_acts_with_the_saved_method(tmp_path, saved, monkeypatch, capsys):
    seen = []
    monkeypatch.setattr(
        "vitrim.measure.folder.evaluate_folder", lambda net, *_, **__: seen.append(net) or Score(1, 2, 3, (), 4)
    )
    command(capsys, "evaluate", "--model", saved, "--data", tmp_path)
    with pytest.warns(VitrimWarning, match=SAYS):
        command(capsys, "evaluate", "--model", saved, "--data", tmp_path, "--method", "tome", "--r", "5")
    assert method_of(seen[0]) == method_of(vitrim.from_pretrained(saved, exits=False))
    assert isinstance(method_of(seen[1]), ToMe)


def test_compare_says_that_the_saved_method_does_not_act(tmp_path, saved, capsys):
    data = save_images(tmp_path / "images")
    where = ("--model", saved, "--data", data, "--output", tmp_path / "out")
    how = ("--methods", "tome", "--r", "5", "--rounds", "1", "--batch-size", "2", "--limit", "2")
    with pytest.warns(VitrimWarning, match=SAYS) as said:
        command(capsys, "compare", *where, *how)
    assert len(said) == 1
    rows = json.loads((tmp_path / "out" / "results.json").read_text())["rows"]
    assert [row["method"] for row in rows] == ["unreduced", "tome"]
    assert rows[0]["tokens"] == [65] * 5


def test_macs_and_doctor_take_a_folder(saved, capsys):
    with pytest.warns(VitrimWarning, match=SAYS):
        out, _ = command(capsys, "macs", "--model", saved, "--methods", "random")
    assert "65 x5" in out
    with pytest.warns(VitrimWarning, match=SAYS):
        out, _ = command(capsys, "doctor", saved)
    assert "64 patches" in out


def test_a_folder_that_is_no_model_is_told_in_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        app(["evaluate", "--model", str(tmp_path), "--data", str(tmp_path)])
    assert end.value.code == 2
    assert "model.safetensors" in capsys.readouterr().err


def test_whoever_may_read_the_configuration_may_read_the_weights(tmp_path):
    folder = vitrim.save_pretrained(build_model("test_vit", num_classes=3), tmp_path / "model")
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    assert modes["model.safetensors"] == modes["config.json"]
    assert modes["config.json"] & stat.S_IRUSR
