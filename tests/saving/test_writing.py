"""A folder appears whole or not at all, and nothing that is there is lost."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import stat
import tempfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from saved_models import method_of, outputs, reduced

import vitrim
from vitrim.methods import ToMe


def test_a_folder_of_ours_is_replaced_and_nothing_is_left_beside_it(tmp_path, saved):
    vitrim.save_pretrained(reduced("tome", r=5), saved)
    assert isinstance(method_of(vitrim.from_pretrained(saved)), ToMe)
    assert [path.name for path in tmp_path.iterdir()] == ["saved"]
    assert sorted(path.name for path in saved.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    assert stat.S_IMODE(saved.stat().st_mode) == 0o777 & ~umask()


def umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_an_empty_folder_is_filled_and_missing_parents_are_made(tmp_path):
    (tmp_path / "empty").mkdir()
    for place in ("empty", "not/yet/there"):
        folder = vitrim.save_pretrained(reduced(), str(tmp_path / place))
        assert torch.equal(outputs(vitrim.from_pretrained(folder)), outputs(reduced()))


def test_a_folder_of_something_else_is_left_alone(tmp_path, saved):
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(ValueError, match="overwrite"):
        vitrim.save_pretrained(reduced(), other)
    (saved / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"notes\.txt.*overwrite.*new folder"):
        vitrim.save_pretrained(reduced(), saved)
    assert (saved / "notes.txt").read_text() == "mine"
    with pytest.raises(ValueError, match=r"notes\.txt is a file"):
        vitrim.save_pretrained(reduced(), saved / "notes.txt")


@pytest.mark.parametrize("writer", ["saving.write._write", "saving.write._write_weights", "store.sync"])
@pytest.mark.parametrize("there", [False, True])
def test_a_full_disk_leaves_what_was_there(writer, there, tmp_path, monkeypatch, template):
    place = tmp_path / "saved"
    if there:
        shutil.copytree(template, place)

    def full(path, *_):
        path.touch()
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(f"vitrim.{writer}", full)
    with pytest.raises(OSError, match=r"saved.*: No space left on device\."):
        vitrim.save_pretrained(reduced(), place)
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == (["saved"] if there else [])
    if there:
        assert method_of(vitrim.from_pretrained(place)).exits is not None


def test_a_limit_of_the_system_leaves_no_half_folder(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    model = reduced()
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))  # the weights take more
    try:
        with pytest.raises(OSError, match="not be saved"):
            vitrim.save_pretrained(model, tmp_path / "saved")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []


def test_a_read_only_folder_is_named():
    model = reduced()
    with tempfile.TemporaryDirectory() as folder:  # pytest's own is closed to other users
        os.chmod(folder, 0o555)
        user = os.geteuid()
        try:
            if user == 0:
                os.seteuid(65534)  # nothing is read-only to root
            with pytest.raises(OSError, match=r"saved.*: Permission denied\."):
                vitrim.save_pretrained(model, Path(folder) / "saved")
        finally:
            os.seteuid(user)
            os.chmod(folder, 0o755)
        assert os.listdir(folder) == []


def test_what_was_not_written_as_it_was_is_found_before_it_takes_its_place(tmp_path, monkeypatch):
    def wrong(path, state):
        save_file({**state, "head.bias": state["head.bias"] + 1}, path)

    monkeypatch.setattr("vitrim.saving.write._write_weights", wrong)
    with pytest.raises(OSError, match="read back"):
        vitrim.save_pretrained(reduced(), tmp_path / "saved")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("metrics", ["top-1", 7, [79.1]])
def test_metrics_without_names_are_refused(tmp_path, metrics):
    with pytest.raises(ValueError, match=r"metrics.*name"):
        vitrim.save_pretrained(reduced(), tmp_path / "saved", metrics=metrics)
    assert list(tmp_path.iterdir()) == []
