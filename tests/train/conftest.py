"""The images that the tests of training share."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_run import make_images

from vitrim.train import run_recipe


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train with 12 and val with 3 images in each of two classes. Not to be changed."""
    return make_images(tmp_path_factory.mktemp("images") / "data")


@pytest.fixture(autouse=True)
def _without_curves(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The runs of test_recipes.py draw their curves; that takes a third of a small run, so the others do not."""
    if request.module.__name__ != "test_recipes":
        monkeypatch.setattr(run_recipe, "save_curves", lambda _: None)
