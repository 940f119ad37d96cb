"""On a disk that is really full every command names the file, ends with 2, and leaves nothing half-written."""

from __future__ import annotations

import os
import subprocess
import tempfile

import pytest

import vitrim
from small_job import MODEL, arguments, small_job
from vitrim.cli import app

PAGE = 4096


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    return small_job(tmp_path_factory.mktemp("inputs"))


@pytest.fixture
def disk(tmp_path):
    """A disk of 4 MiB, and what fills it but for so many bytes."""
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)], capture_output=True).returncode:
        pytest.skip("may not mount a small disk")

    def fill(leave: int):
        free = os.statvfs(place)
        (place / "filler").write_bytes(bytes(free.f_bavail * free.f_frsize - leave))
        return place

    yield fill
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.fixture
def refused(capsys):
    def run(*arguments) -> str:
        with pytest.raises(SystemExit) as end:
            app(list(map(str, arguments)))
        (line,) = capsys.readouterr().err.splitlines()
        assert end.value.code == 2
        assert line.startswith("error: ") and "No space left on device" in line, line
        return line

    return run


def left(place) -> list[str]:
    return sorted(path.name for path in place.iterdir() if path.name != "filler")


@pytest.mark.parametrize(
    ("command", "file", "leave"),
    [
        ("draw", "picture.png", 0),
        ("draw", "picture.png", 2 * PAGE),
        ("features", "maps.png", 2 * PAGE),
        ("features", "maps.safetensors", 2 * PAGE),
        ("benchmark", "speed.json", 0),
        ("cls-quality", "rows.csv", 0),
        ("export", "model.pt2", 2 * PAGE),
        ("export", "model.onnx", 2 * PAGE),
    ],
)
def test_what_is_written_is_named_and_nothing_is_left(job, disk, refused, command, file, leave):
    place = disk(leave)
    model = ("--model", MODEL, "--checkpoint", job.checkpoint, "--img-size", job.img_size)
    some = ("--methods", "evit", "--keep-rates", 0.5)
    options = {
        "draw": (job.data / "0.png", *model, *some, "--output", place / file),
        "features": (job.data / "0.png", *model, *some, "--output", place / file),
        "benchmark": (*some, "--batch-sizes", 1, "--rounds", 1, "--json", place / file),
        "cls-quality": (MODEL, *model[2:], "--images", job.data, "--output", place / file),
        "export": (*model, "--images", job.data, "--batch-sizes", 1, "--rounds", 0, "--output", place / file),
    }
    route = {".onnx": ("--to", "onnx"), ".pt2": ("--to", "torch-export")}.get((place / file).suffix, ())
    assert str(place / file) in refused(command, *options[command], *route)
    assert left(place) == []


@pytest.mark.parametrize(("leave", "file"), [(0, ".lock"), (PAGE, "results.json"), (6 * PAGE, "pictures/")])
def test_compare_names_the_file_and_goes_on_when_there_is_room(job, disk, refused, leave, file):
    place = disk(leave)
    assert str(place / "out" / file) in refused(*arguments(job), "--output", place / "out")
    assert not [
        path
        for path in (place / "out").rglob("*")
        if path.is_file() and not path.stat().st_size and path.name != ".lock"
    ]
    (place / "filler").unlink()
    with pytest.raises(SystemExit) as end:
        app([*arguments(job), "--output", str(place / "out")])
    assert end.value.code == 0


def test_a_saved_model_and_unpacked_images_are_named_too(disk, refused, monkeypatch):
    place = disk(PAGE)
    with pytest.raises(OSError, match=f"the model could not be saved to {place / 'model'}"):
        vitrim.save_pretrained(vitrim.load_model("vitrim_fashion_tiny"), place / "model")
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    assert "fashion_mnist_1000: cannot be written" in refused("evaluate", "--limit", 4)
    assert left(place) == []
