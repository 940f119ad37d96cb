"""The images that the tests of training share."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_run import make_images


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train with 12 and val with 3 images in each of two classes. Not to be changed."""
    return make_images(tmp_path_factory.mktemp("images") / "data")
