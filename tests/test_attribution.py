"""What docs/attribution.md says of gradients, hooks and torch.fx on a reduced model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torchvision.models.feature_extraction import create_feature_extractor

import vitrim
from vitrim.testing import small_vit

IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def model(tiny_vit: Callable[..., nn.Module]) -> nn.Module:
    return vitrim.reduce_tokens(tiny_vit(depth=4), "evit-nofuse", keep_rate=0.2)


def test_a_dropped_patch_has_a_gradient_from_the_blocks_before(model: nn.Module) -> None:
    x_BCHW = IMAGES.clone().requires_grad_()
    with vitrim.trace(model) as trace:
        model(x_BCHW)[0].max().backward()
    patches_P = x_BCHW.grad[0].unfold(1, 4, 4).unfold(2, 4, 4).abs().sum(dim=(0, 3, 4)).flatten()
    dropped_P = trace.layers[0].groups()[0] == -1
    assert dropped_P.any()
    assert (patches_P[dropped_P] > 0).all()
    assert patches_P[dropped_P].mean() < patches_P[~dropped_P].mean()


def test_a_hook_that_asks_for_keyword_arguments_finds_one_more(model: nn.Module) -> None:
    seen: list[Any] = []
    model.get_submodule("blocks.2").register_forward_hook(
        lambda _, args, kwargs, out: seen.append((len(args), list(kwargs), out.shape)), with_kwargs=True
    )
    model(IMAGES)
    assert seen == [(1, ["passing"], (2, 4, 48))]


def test_a_hook_sees_the_rows_of_all_images_one_after_another_where_they_keep_different_numbers() -> None:
    model = vitrim.reduce_tokens(small_vit(), "attention_mass", mass=0.7)
    seen: list[torch.Size] = []
    model.get_submodule("blocks.2").register_forward_pre_hook(lambda _, args: seen.append(args[0].shape))
    model(IMAGES)
    ((images, rows, channels),) = seen
    assert (images, channels) == (1, 48)
    assert 2 < rows < 2 * 65


def test_what_the_fused_kernel_leaves_out_is_not_called(model: nn.Module) -> None:
    called: list[int] = []
    model.get_submodule("blocks.0.attn.attn_drop").register_forward_hook(lambda *_: called.append(0))
    model.get_submodule("blocks.0.attn.proj").register_forward_hook(lambda *_: called.append(1))
    model(IMAGES)
    assert called == [1]


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
@pytest.mark.parametrize(
    "walk",
    [torch.fx.symbolic_trace, torch.jit.script, lambda model: create_feature_extractor(model, ["norm"])],
    ids=["fx", "script", "create_feature_extractor"],
)
def test_what_needs_fixed_sizes_is_refused_with_the_reason(walk: Callable[[nn.Module], Any], model: nn.Module) -> None:
    with pytest.raises((ValueError, RuntimeError), match=r"reduced model.*export_model"):
        walk(model)


@pytest.mark.filterwarnings("ignore:`torch.jit.trace")
def test_features_cannot_be_written_into_a_graph(model: nn.Module) -> None:
    class Maps(nn.Module):
        def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
            return vitrim.features(model, x_BCHW).maps[0]

    with pytest.raises(ValueError, match="exported or traced"):
        torch.jit.trace(Maps(), IMAGES)
