"""The reference modes compute the library's numbers in the way of research code."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

import vitrim
from benchmarks.reference_modes import ReferenceMode, reference_modes
from vitrim.core.method import Method

METHODS = {
    "EViT": vitrim.EViT(keep_rate=0.7),
    "EViT in more blocks": vitrim.EViT(keep_rate=0.6, layers=(1, 2, 5, 7, 11)),
    "EViT, no fusion": vitrim.EViT(keep_rate=0.7, fuse=False),
    "TM": vitrim.TokenMergence(keep_rate=0.5),
    "ToMe": vitrim.ToMe(r=(4, -1.0)),
    "ToMe, attention as ever": vitrim.ToMe(r=4, prop_attn=False),
}
MODES = [
    (name, mode) for name in METHODS for mode in ("matrix", "masks") if mode == "matrix" or name == "EViT, no fusion"
]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize(("name", "mode"), MODES)
def test_a_reference_mode_equals_the_library(
    tiny_vit: Callable[..., VisionTransformer], name: str, mode: str, dtype: torch.dtype, tolerance: float
) -> None:
    base, method = tiny_vit(depth=12).to(dtype), METHODS[name]
    reference = reference_modes(base, method)[mode]
    reduced = vitrim.reduce_tokens(copy.deepcopy(base), method)
    images = torch.randn(3, 3, 32, 32, dtype=dtype, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected, plain = reduced(images), base(images)
        torch.testing.assert_close(reference(images), expected, atol=tolerance, rtol=0)
    assert (expected - plain).abs().max() > 100 * tolerance  # the reduction shows in the numbers compared


def test_the_masks_way_removes_no_token_and_the_matrix_way_does(tiny_vit: Callable[..., VisionTransformer]) -> None:
    base = tiny_vit(depth=12)
    counts: list[int] = []
    base.norm.register_forward_pre_hook(lambda _, inputs: counts.append(inputs[0].shape[1]))
    modes = reference_modes(base, vitrim.EViT(keep_rate=0.7, fuse=False))
    for mode in ("masks", "matrix"):
        modes[mode](torch.randn(1, 3, 32, 32))
    assert counts == [65, 24]  # 64 patches, then 45, 32, 23


def test_a_method_without_reference_mode_has_none(tiny_vit: Callable[..., VisionTransformer]) -> None:
    found: list[Method] = [vitrim.BeyondAttentive(), vitrim.EViT(scorer="norm"), vitrim.TokenMergence(similarity="l2")]
    assert [reference_modes(tiny_vit(), method) for method in found] == [{}, {}, {}]


@pytest.mark.parametrize("settings", [{"reg_tokens": 4}, {"class_token": False, "global_pool": "avg"}])
def test_a_reference_mode_refuses_what_it_would_run_wrongly(
    tiny_vit: Callable[..., VisionTransformer], settings: dict[str, object]
) -> None:
    with pytest.raises(ValueError, match="class token"):
        ReferenceMode(tiny_vit(**settings), vitrim.ToMe(r=4))
