"""A small multi-scale model."""

from __future__ import annotations

import pytest
from multiscale_models import small

from vitrim.models.multiscale import MultiscaleViT


@pytest.fixture
def model() -> MultiscaleViT:
    return small()
