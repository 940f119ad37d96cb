"""The route aoti: one compiled package gives the model's numbers at any batch size, on any number of threads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

import vitrim
from vitrim.export.aoti import ROUTE

METHODS: list[tuple[str, dict[str, Any]]] = [
    ("evit", {}),
    ("token_mergence", {}),
    ("beyond_attentive", {}),
    ("tome", {"r": 7}),
]

needs_compiler = pytest.mark.skipif(ROUTE.missing() is not None, reason="needs a C++ compiler")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))


def test_a_missing_compiler_is_told_in_one_line() -> None:
    with torch._inductor.config.patch({"cpp.cxx": (None, "no-such-compiler")}):
        told = ROUTE.missing()
    assert told is not None
    assert "aoti" in told and "C++ compiler" in told and "g++" in told
    assert "\n" not in told


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize(("name", "settings"), METHODS)
def test_one_package_equals_the_model_at_any_batch_size(
    tiny_vit: Callable[..., VisionTransformer], tmp_path: Path, name: str, settings: dict[str, Any]
) -> None:
    assert_equal(vitrim.reduce_tokens(tiny_vit(depth=4), name, **settings), tmp_path, size=32)


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("name", ["evit", "token_mergence", "beyond_attentive", "tome"])
def test_deit_tiny_with_real_weights_stays_within_the_bar(deit_checkpoint: Path, tmp_path: Path, name: str) -> None:
    model = vitrim.load_model("deit_tiny_patch16_224", checkpoint=deit_checkpoint)
    assert_equal(vitrim.reduce_tokens(model, name), tmp_path, size=224)


def assert_equal(model: nn.Module, folder: Path, size: int) -> None:
    """Written on one thread, run on one and on two: how many there are must not be compiled in."""
    path = folder / "written" / "model.pt2"
    path.parent.mkdir()
    ROUTE.write(model, torch.randn(2, 3, size, size), path)
    assert list(path.parent.iterdir()) == [path]
    run = ROUTE.load(path)
    for num_images, num_threads in ((1, 1), (2, 2), (7, 1), (7, 2)):
        x_BCHW = torch.randn(num_images, 3, size, size, generator=torch.Generator().manual_seed(num_images))
        with torch.no_grad():
            expected = model(x_BCHW)
        torch.set_num_threads(num_threads)
        try:
            torch.testing.assert_close(run(x_BCHW), expected, atol=1e-4, rtol=0)
        finally:
            torch.set_num_threads(1)
