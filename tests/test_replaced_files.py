"""An artefact and its card come into place together, or what was there before stays."""

from __future__ import annotations

from pathlib import Path

import pytest

import vitrim
from vitrim.store import replace_files


def files(folder: Path) -> dict[str, str]:
    return {file.name: file.read_text() for file in folder.iterdir() if file.is_file()}


@pytest.fixture
def new(tmp_path: Path) -> list[Path]:
    """Three new files, of which the folder above holds the first already, and an old companion."""
    (tmp_path / "new").mkdir()
    for name in ("a.xml", "a.bin", "a.xml.json"):
        (tmp_path / "new" / name).write_text(f"new {name}")
    (tmp_path / "a.xml").write_text("old")
    (tmp_path / "a.data").write_text("old")
    return [tmp_path / "new" / name for name in ("a.xml", "a.bin", "a.xml.json")]


def test_all_files_come_into_place_and_stale_ones_go(new: list[Path], tmp_path: Path) -> None:
    replace_files(new, tmp_path, [tmp_path / "a.data"])
    assert files(tmp_path) == {name: f"new {name}" for name in ("a.xml", "a.bin", "a.xml.json")}


@pytest.mark.parametrize("link", [True, False])
def test_if_the_last_one_fails_the_first_is_put_back(
    new: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, link: bool
) -> None:
    if not link:
        monkeypatch.setattr("os.link", lambda *_: (_ for _ in ()).throw(OSError("no links here")))
    (tmp_path / "a.xml.json").mkdir()
    with pytest.raises(OSError):  # noqa: PT011 - in the words of the system
        replace_files(new, tmp_path, [tmp_path / "a.data"])
    assert files(tmp_path) == {"a.xml": "old", "a.data": "old"}


def test_a_folder_where_the_card_belongs_is_seen_first(tiny_vit, tmp_path: Path) -> None:
    (tmp_path / "a.pt2").write_text("old")
    (tmp_path / "a.pt2.json").mkdir()
    with pytest.raises(IsADirectoryError, match=r"a.pt2.json.*folder"):
        vitrim.export_model(tiny_vit(depth=2), tmp_path / "a.pt2", to="torch-export")
    assert files(tmp_path) == {"a.pt2": "old"}
