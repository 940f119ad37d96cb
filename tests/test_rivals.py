"""What a user would do instead: the rivals are what they say."""

from __future__ import annotations

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

import vitrim
from vitrim.rivals import fewer_blocks, smaller_input, without_unread

SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 3, "num_classes": 5}


@pytest.fixture
def model() -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer(**SMALL).eval()


@torch.no_grad()
def test_fewer_blocks_are_the_first_ones(model: VisionTransformer) -> None:
    images = torch.randn(2, 3, 32, 32)
    short = fewer_blocks(model, 2)
    x = model._pos_embed(model.patch_embed(images))
    wanted = model.forward_head(model.norm(model.blocks[1](model.blocks[0](x))))
    torch.testing.assert_close(short(images), wanted)
    assert len(model.blocks) == 3


@pytest.mark.parametrize("depth", [0, 3])
def test_a_depth_that_is_no_rival_is_refused(model: VisionTransformer, depth: int) -> None:
    with pytest.raises(ValueError, match=f"1 to 2 .* not {depth}"):
        fewer_blocks(model, depth)


def test_a_smaller_input_costs_less_and_leaves_the_model_alone(model: VisionTransformer) -> None:
    small = smaller_input(model, 16)
    assert vitrim.count_macs(small) < vitrim.count_macs(model) / 2
    assert model.patch_embed.img_size == (32, 32)
    with pytest.raises(ValueError, match="whole number of pixels"):
        smaller_input(model, 0)


@torch.no_grad()
def test_leaving_out_what_nobody_reads_changes_no_answer(model: VisionTransformer) -> None:
    images = torch.randn(2, 3, 32, 32)
    fewer = without_unread(model)
    assert fewer is not None
    torch.testing.assert_close(fewer(images), model(images))
    assert vitrim.count_macs(model) - vitrim.count_macs(fewer) == 15 * 8 * 24**2 - 17 * 24  # less one row of scores


def test_a_head_that_reads_patches_leaves_nothing_unread() -> None:
    assert without_unread(VisionTransformer(**SMALL, global_pool="avg")) is None
