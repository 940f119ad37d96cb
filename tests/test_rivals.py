"""What a user would do instead: the rivals are what they say."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from timm.models.vision_transformer import VisionTransformer

import vitrim
from vitrim.measure.model_input import preparation_of
from vitrim.rivals import Rival, beats, check_rivals, fewer_blocks, read_rivals, smaller_input, without_unread

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
    assert preparation_of(small).input_size == (3, 16, 16)


@pytest.mark.parametrize(("size", "wanted"), [(0, "whole number of pixels"), (20, "16 or 24"), (32, "below .* 32")])
def test_a_size_that_is_no_smaller_square_of_whole_patches_is_refused(
    model: VisionTransformer, size: int, wanted: str
) -> None:
    with pytest.raises(ValueError, match=wanted):
        smaller_input(model, size)


@torch.no_grad()
def test_leaving_out_what_nobody_reads_changes_no_answer(model: VisionTransformer) -> None:
    images = torch.randn(2, 3, 32, 32)
    fewer = without_unread(model)
    assert fewer is not None
    torch.testing.assert_close(fewer(images), model(images))
    assert vitrim.count_macs(model) - vitrim.count_macs(fewer) == 15 * 8 * 24**2 - 17 * 24  # less one row of scores


def test_a_head_that_reads_patches_leaves_nothing_unread() -> None:
    assert without_unread(VisionTransformer(**SMALL, global_pool="avg")) is None


def test_rivals_are_read_from_text() -> None:
    found = read_rivals("resolution=208,192; depth=11;model=deit_tiny_patch16_224; int8; unread; depth=11")
    assert found == (
        Rival("resolution", 208),
        Rival("resolution", 192),
        Rival("depth", 11),
        Rival("model", "deit_tiny_patch16_224"),
        Rival("int8"),
        Rival("unread"),
    )
    assert [each.key for each in found[1:3]] == [("smaller input", "192 px"), ("fewer blocks", "11 blocks")]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (" ; ", "empty"),
        ("size=208", "'size'.*resolution=208"),
        ("depth", "depth needs a value"),
        ("resolution=208,many", "whole numbers.*'many'"),
        ("int8=4", "int8 takes no value.*'4'"),
    ],
)
def test_text_that_names_no_rival_is_refused(text: str, wanted: str) -> None:
    with pytest.raises(ValueError, match=wanted):
        read_rivals(text)


def test_a_model_with_other_classes_is_no_rival(model: VisionTransformer) -> None:
    with pytest.raises(ValueError, match="10 classes and the model 5"):
        Rival("model", "vitrim_fashion_tiny").make(model)


def test_a_named_model_counts_the_classes_of_the_folder_in_the_same_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (32, 32)).save(tmp_path / name / "0.png")
    one, other = (VisionTransformer(**SMALL | {"num_classes": 2}).eval() for _ in range(2))
    for each, names in ((one, ["cat", "dog"]), (other, ["dog", "cat"])):
        each.pretrained_cfg = {"label_names": names, "input_size": (3, 32, 32)}
    monkeypatch.setattr("vitrim.rivals.load_model", lambda _: other)
    with pytest.raises(ValueError, match="another order"):
        check_rivals([Rival("model", "other")], one, tmp_path, None)
    other.pretrained_cfg["label_names"] = ["cat", "dog"]
    check_rivals([Rival("model", "other")], one, tmp_path, None)


def test_a_rival_is_better_if_it_loses_less_in_at_most_the_time_up_to_noise() -> None:
    assert beats(1.5, 1.0, 1.52, 2.0)
    assert not beats(1.4, 1.0, 1.5, 2.0)
    assert not beats(1.6, 2.0, 1.5, 2.0)
