"""What several test files need: tiny models, and the shared assets where they are at hand."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

SHARED = Path(os.environ.get("VITRIM_SHARED", Path(__file__).resolve().parents[2] / "shared"))

torch.set_num_threads(1)  # tiny models run slower on several, and test processes share the cores


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The many short ones come last: processes that take tests from each other then end at the same time."""
    items.sort(key=lambda item: "conformance" in item.path.parts)


def pytest_collection_finish() -> None:
    """What is there before the first test stays: collections of garbage would look through it again and again."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """Libraries that count what is left at the end find it gone."""
    gc.unfreeze()


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of shared assets; tests that need it are skipped without it."""
    return _present(SHARED)


@pytest.fixture(scope="session")
def deit_checkpoint(shared: Path) -> Path:
    """Weights of DeiT-Tiny."""
    return _present(shared / "assets" / "deit_tiny_patch16_224.safetensors")


@pytest.fixture(scope="session")
def imagenet_val(shared: Path) -> Path:
    """1,300 labelled ImageNet validation images."""
    return _present(shared / "assets" / "imagenet_val_1300")


@pytest.fixture(scope="session")
def photographs() -> list[Path]:
    """Twenty of them; none where the shared assets are not at hand."""
    return sorted((SHARED / "assets" / "imagenet_val_1300" / "images").glob("*.JPEG"))[:600:30]


@pytest.fixture(scope="session")
def tiny_vit() -> Callable[..., VisionTransformer]:
    """Builds a ViT of 12 blocks with 8 x 8 patches and random weights, the same each time, in eval mode."""
    return _tiny_vit


def _tiny_vit(**settings: Any) -> VisionTransformer:
    defaults = {"img_size": 32, "patch_size": 4, "embed_dim": 48, "depth": 12, "num_heads": 3, "num_classes": 10}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return VisionTransformer(**(defaults | settings)).eval()


def _present(path: Path) -> Path:
    if not path.exists():
        pytest.skip(f"needs {path.name} of the shared assets (VITRIM_SHARED): not at {path}")
    return path
