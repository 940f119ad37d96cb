"""Files and folders appear whole, and what killed processes left is removed by the next of their kind."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys

import pytest

from vitrim import store
from vitrim.store import replace_file, replace_folder, replacing
from vitrim.temporary import temporary_folder

HOLD = "import sys; from pathlib import Path; from vitrim.temporary import temporary_folder\n"
HOLD += "with temporary_folder(Path(sys.argv[1])) as place: print(place, flush=True); sys.stdin.read()"


@pytest.fixture
def killed(tmp_path):
    """A folder with the temporary folder of a process that was killed."""
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with other:
        left = other.stdout.readline().strip()
        with temporary_folder(tmp_path):
            assert os.path.isdir(left)  # its process is alive
        other.send_signal(signal.SIGKILL)
    (tmp_path / left / "large.bin").write_bytes(b"0")
    return tmp_path


def test_what_a_killed_process_left_is_removed_by_the_next(killed):
    assert len(list(killed.glob(".vitrim-*"))) == 1
    replace_file(killed / "numbers.json", "{}")
    assert [path.name for path in killed.iterdir()] == ["numbers.json"]


def test_folders_of_others_stay_whatever_their_name(tmp_path):
    for name in (".vitrim-projects", ".vitrim-abcdefgh"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "thesis.tex").write_text("")
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / ".lock").write_text("")
    (tmp_path / ".vitrim-ijklmnop").symlink_to(tmp_path / "home")
    with temporary_folder(tmp_path) as own:
        assert own.parent == tmp_path
    assert (tmp_path / ".vitrim-abcdefgh" / "thesis.tex").exists()
    assert (tmp_path / ".vitrim-projects" / "thesis.tex").exists()
    assert (tmp_path / "home" / ".lock").exists()


def test_a_full_disk_names_the_file_and_leaves_what_was_there(tmp_path, monkeypatch):
    file = tmp_path / "results.json"
    replace_file(file, "old")

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(store, "sync", full)
    with pytest.raises(OSError, match=r"No space left.*make room") as caught:
        replace_file(file, "new")
    assert caught.value.filename == str(file)
    assert file.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


@pytest.mark.parametrize("in_one_step", [True, False])
def test_a_folder_takes_the_place_of_another(tmp_path, monkeypatch, in_one_step):
    if not in_one_step:
        monkeypatch.setattr(store, "_exchange", lambda *_: False)
    for name in ("model", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "says").write_text(name)
    replace_folder(tmp_path / "model", tmp_path / "new")
    assert (tmp_path / "model" / "says").read_text() == "new"
    assert {path.name for path in tmp_path.iterdir()} <= {"model", "new"}


def test_at_no_moment_is_there_no_folder(tmp_path, monkeypatch):
    for name in ("model", "new"):
        (tmp_path / name).mkdir()
    if not store._exchange(tmp_path / "model", tmp_path / "new"):
        pytest.skip("the disk cannot exchange two folders in one step")
    monkeypatch.setattr(os, "rename", lambda *_: pytest.fail("moved the old folder away"))
    replace_folder(tmp_path / "model", tmp_path / "new")


def test_a_folder_that_was_aside_when_the_process_was_killed_is_put_back(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "_exchange", lambda *_: False)
    (tmp_path / ".model.old").mkdir()
    (tmp_path / ".model.old" / "says").write_text("old")

    def fails(*_):
        raise OSError(errno.EIO, "no")

    with monkeypatch.context() as patches:
        patches.setattr(store, "_exchange", fails)
        (tmp_path / "new").mkdir()
        with pytest.raises(OSError, match="no"):
            replace_folder(tmp_path / "model", tmp_path / "new")
    assert (tmp_path / "model" / "says").read_text() == "old"


def test_a_file_that_is_not_finished_takes_nobodys_place(tmp_path):
    file = tmp_path / "page.png"
    file.write_text("before")

    def half():
        with replacing(file) as new:
            new.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        half()
    assert [(each.name, each.read_text()) for each in tmp_path.iterdir()] == [("page.png", "before")]


def test_a_link_is_replaced_and_what_it_leads_to_left_alone(tmp_path):
    (tmp_path / "other").mkdir()
    there = tmp_path / "other" / "there.txt"
    there.write_text("before")
    link = tmp_path / "link.txt"
    link.symlink_to(there)
    replace_file(link, "after")
    assert (link.read_text(), there.read_text()) == ("after", "before")
    assert not link.is_symlink()
