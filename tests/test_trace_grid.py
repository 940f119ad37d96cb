"""The rows and columns of the patches of a traced forward."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import vitrim
from traced_models import reduced_vit, tiny_vit, traced
from vitrim.tracing import trace


def test_the_grid_follows_the_image_not_the_model():
    assert traced(reduced_vit()).grid == (8, 8)
    assert traced(reduced_vit(img_size=(64, 32)), torch.randn(2, 3, 64, 32)).grid == (8, 4)
    dynamic = reduced_vit(dynamic_img_size=True)
    assert traced(dynamic, torch.randn(1, 3, 24, 96)).grid == (3, 12)
    padded = reduced_vit(dynamic_img_size=True, dynamic_img_pad=True)
    assert traced(padded, torch.randn(1, 3, 60, 90)).grid == (8, 12)
    assert traced(reduced_vit(patch_size=(8, 16))).grid == (8, 4)


def test_the_grid_is_known_for_features_and_inside_a_larger_model():
    model = reduced_vit(img_size=(64, 32))
    with trace(model) as t, torch.no_grad():
        model.forward_features(torch.randn(1, 3, 64, 32))
    assert t.grid == (8, 4)
    assert traced(nn.Sequential(nn.Conv2d(3, 3, 1), model), torch.randn(1, 3, 64, 32)).grid == (8, 4)


class LinearPatches(nn.Module):
    """Patches cut and projected without a convolution."""

    def __init__(self, rows: int, columns: int):
        super().__init__()
        self.num_patches, self.shape = rows * columns, (rows, columns)
        self.projection = nn.Linear(192, 32)

    def forward(self, images):
        B = images.shape[0]
        patches = images.reshape(B, 3, self.shape[0], 8, self.shape[1], 8).permute(0, 2, 4, 1, 3, 5)
        return self.projection(patches.reshape(B, -1, 192))


def test_without_a_convolution_the_grid_is_square_or_has_to_be_given():
    model = tiny_vit()
    model.patch_embed = LinearPatches(8, 8)
    assert traced(vitrim.reduce_tokens(model, "evit")).grid == (8, 8)
    model = tiny_vit(img_size=(64, 32))
    model.patch_embed = LinearPatches(8, 4)
    vitrim.reduce_tokens(model, "evit")
    images = torch.randn(1, 3, 64, 32)
    with pytest.raises(ValueError, match=r"grid=\.\.\."):
        _ = traced(model, images).grid
    assert traced(model, images, grid=(8, 4)).grid == (8, 4)
    with pytest.raises(ValueError, match=r"5 x 5.*32 patches"):
        _ = traced(model, images, grid=(5, 5)).grid


def test_a_batch_of_no_images_can_be_traced():
    t = traced(reduced_vit(), torch.randn(0, 3, 64, 64))
    assert t.batch_size == 0
    assert [(layer.num_tokens, layer.source_BP.shape[0], layer.counted) for layer in t.layers] == [
        (n, 0, str(n)) for n in (layer.num_tokens for layer in traced(reduced_vit()).layers)
    ]


@pytest.mark.parametrize("grid", ["88", 8, (8,), (-8, -8), (8.0, 8.0), [8, True]])
def test_a_grid_that_is_none_is_refused(grid):
    model = reduced_vit()
    with pytest.raises(ValueError, match="two whole numbers"), trace(model, grid=grid):
        pass
    with pytest.raises(ValueError, match="two whole numbers"):
        vitrim.features(model, torch.randn(1, 3, 64, 64), grid=grid)
