"""A command builds its model once, whatever it asks of it."""

from __future__ import annotations

import pytest
import timm
from safetensors.torch import save_file

from vitrim.cli import app
from vitrim.loading.build import build_model, load_checked, load_model
from vitrim.models.embedded import demo_images

EMBEDDED, ENOUGH = "vitrim_fashion_tiny", "measured enough"


@pytest.fixture
def builds(monkeypatch):
    """The names that timm was asked to build, one by one."""
    made, create = [], timm.create_model

    def counted(name, *args, **settings):
        made.append(name)
        return create(name, *args, **settings)

    monkeypatch.setattr(timm, "create_model", counted)
    return made


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return demo_images(tmp_path_factory.mktemp("images") / "demo")


def commands(images, out):
    yield f"evaluate --method evit --limit 4 --data {images}"
    yield f"evaluate --limit 4 --data {images}"
    yield f"export --to torch-export --method evit --limit 4 --batch-sizes 2 --rounds 1 --output {out}/m.pt2"
    yield f"draw {images} --methods evit --limit 1 --output {out}/drawn.png"
    yield f"features {images} --methods evit --limit 1 --output {out}/maps.safetensors"
    yield f"compare --methods evit --data {images} --limit 4 --rounds 1 --output {out}/run"
    yield "macs --methods evit"


@pytest.fixture
def without_measuring(monkeypatch):
    """Commands end where the slow part would begin: by then all is built and asked."""

    def enough(*_, **__):
        raise ValueError(ENOUGH)

    for place in ("export.export_model.export_model", "compare.run.image_batches"):
        monkeypatch.setattr(f"vitrim.{place}", enough)


@pytest.mark.usefixtures("without_measuring")
def test_every_command_builds_one_model(builds, images, tmp_path, capsys):
    for command in commands(images, tmp_path):
        builds.clear()
        with pytest.raises(SystemExit) as end:
            app([*command.split(), "--model", EMBEDDED])
        assert end.value.code == 0 or ENOUGH in capsys.readouterr().err
        assert builds == [EMBEDDED], command


def test_a_checkpoint_of_other_classes_takes_one_build(builds, tmp_path):
    model = build_model("test_vit", num_classes=7)
    save_file(model.state_dict(), tmp_path / "seven.safetensors")
    builds.clear()
    assert load_model("test_vit", tmp_path / "seven.safetensors").num_classes == 7
    assert builds == ["test_vit"]


def test_weights_are_not_fetched_for_a_model_that_does_not_fit(monkeypatch):
    def refuse(_):
        raise ValueError("does not fit")

    monkeypatch.setattr("vitrim.loading.build.check_hub", lambda *_: pytest.fail("asked the hub"))
    with pytest.raises(ValueError, match="does not fit"):
        load_checked("test_vit", None, None, refuse)
