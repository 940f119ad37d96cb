"""The route executorch: the same numbers from a .pte, ties included, and refusals that say what is missing."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

import vitrim
from vitrim.core import portable
from vitrim.export import executorch
from vitrim.export.executorch import MAX_BATCH, ROUTE

needs_runtime = pytest.mark.skipif(importlib.util.find_spec("executorch") is None, reason="needs vitrim[executorch]")

BAT = "beyond_attentive"
METHODS: list[tuple[str, dict[str, Any]]] = [
    ("evit", {}),
    ("evit", {"fuse": False, "scorer": "received"}),
    ("token_mergence", {}),
    (BAT, {}),
    (BAT, {"inattentive": "kmeans", "clusters": 3}),
    (BAT, {"inattentive": "spatial"}),
    (BAT, {"inattentive": "conv"}),
    (BAT, {"inattentive": "mlp"}),
    ("tome", {"r": 7}),
]


class Reduces(nn.Module):
    """Computes what ExecuTorch's runtime has no kernel for."""

    def forward(self, x_BN: Tensor) -> Tensor:
        return x_BN.scatter_reduce(1, torch.zeros_like(x_BN, dtype=torch.long), x_BN, "amax")


def with_ties(num_rows: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(-3, 4, (num_rows, 70), generator=generator).float()


def written(model: nn.Module, x: Tensor, folder: Path) -> Callable[[Tensor], Tensor]:
    ROUTE.write(model, x, folder / "model.pte")
    return ROUTE.load(folder / "model.pte")


@pytest.mark.parametrize("kind", ["plain", "bias", "mask", "causal"])
def test_attention_is_rewritten_to_the_same_numbers(kind: str) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 2, 3, 9, 8, generator=generator)
    bias = torch.rand(2, 1, 1, 9, generator=generator)
    masks = {"bias": bias, "mask": bias > 0.5}
    expected = F.scaled_dot_product_attention(q, k, v, masks.get(kind), is_causal=kind == "causal", scale=0.3)
    got = executorch._attention(q, k, v, masks.get(kind), causal=kind == "causal", scale=0.3)
    torch.testing.assert_close(got, expected, atol=1e-6, rtol=1e-5)


class Orders(nn.Module):
    """The three ways in which vitrim's methods order tokens."""

    def forward(self, x_BN: Tensor) -> Tensor:
        order_BN = portable.order(x_BN)
        return torch.stack([order_BN, portable.flagged_last(x_BN > 0), portable.ascending(order_BN)], dim=1)


@needs_runtime
def test_ties_go_to_the_lower_index_in_the_runtime_too(tmp_path: Path) -> None:
    run = written(Orders(), with_ties(2), tmp_path)
    for num_rows in (1, 7, MAX_BATCH + 3):
        x = with_ties(num_rows)
        assert torch.equal(run(x), Orders()(x))


@needs_runtime
def test_what_the_runtime_has_no_kernel_for_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"kernel.*aten::scatter_reduce.two_out"):
        ROUTE.write(Reduces(), with_ties(2), tmp_path / "model.pte")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_runtime_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert ROUTE.missing() == 'the route executorch needs executorch: pip install "vitrim[executorch]"'


@needs_runtime
@pytest.mark.slow
@pytest.mark.parametrize(("name", "settings"), METHODS)
def test_a_program_equals_the_model_at_any_batch_size(
    tiny_vit: Callable[..., VisionTransformer], tmp_path: Path, name: str, settings: dict[str, Any]
) -> None:
    model = vitrim.reduce_tokens(tiny_vit(depth=4), name, **settings)
    assert_equal(model, written(model, torch.randn(2, 3, 32, 32), tmp_path), size=32)


@needs_runtime
@pytest.mark.slow
def test_a_model_that_pools_its_patches_is_written_too(
    tiny_vit: Callable[..., VisionTransformer], tmp_path: Path
) -> None:
    model = vitrim.reduce_tokens(tiny_vit(depth=4, class_token=False, global_pool="avg"), "tome", r=7)
    assert_equal(model, written(model, torch.randn(2, 3, 32, 32), tmp_path), size=32)


@needs_runtime
@pytest.mark.slow
def test_the_strategy_with_a_maximum_is_refused(tiny_vit: Callable[..., VisionTransformer], tmp_path: Path) -> None:
    model = vitrim.reduce_tokens(tiny_vit(depth=4), BAT, inattentive="max")
    with pytest.raises(ValueError, match=r"kernel.*aten::scatter_reduce.two_out"):
        ROUTE.write(model, torch.randn(2, 3, 32, 32), tmp_path / "model.pte")


@needs_runtime
@pytest.mark.slow
@pytest.mark.parametrize("name", ["evit", "token_mergence", BAT, "tome"])
def test_deit_tiny_with_real_weights_stays_within_the_bar(deit_checkpoint: Path, tmp_path: Path, name: str) -> None:
    model = vitrim.reduce_tokens(vitrim.load_model("deit_tiny_patch16_224", checkpoint=deit_checkpoint), name)
    assert_equal(model, written(model, torch.randn(2, 3, 224, 224), tmp_path), size=224)


def assert_equal(model: nn.Module, run: Callable[[Tensor], Tensor], size: int) -> None:
    for num_images in (1, 7, 33):  # memory is planned for 32
        x_BCHW = torch.randn(num_images, 3, size, size, generator=torch.Generator().manual_seed(num_images))
        with torch.no_grad():
            torch.testing.assert_close(run(x_BCHW), model(x_BCHW), atol=1e-4, rtol=0)
