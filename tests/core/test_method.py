"""Scores, and the checks that all methods share."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

import vitrim
from vitrim.backbones.reader import read_backbone
from vitrim.core.attention import Attention
from vitrim.core.method import Method
from vitrim.core.scored import patch_scores
from vitrim.core.seeds import pseudo_random
from vitrim.core.tokens import Tokens


def some_attention(num_tokens: int) -> Attention:
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 3, num_tokens, 4) for _ in range(3))
    return Attention(q, k, v, 0.5)


def test_the_cls_score_is_the_head_mean_of_its_row_without_the_prefix() -> None:
    attention = some_attention(9)
    matrix = (attention.q_BHND @ attention.k_BHND.mT * 0.5).softmax(dim=-1)
    tokens = Tokens(torch.randn(2, 9, 12), 2)
    torch.testing.assert_close(patch_scores("cls", tokens, attention), matrix.mean(dim=1)[:, 0, 2:])
    torch.testing.assert_close(patch_scores("received", tokens, attention), matrix.mean(dim=(1, 2))[:, 2:])


def test_the_norm_score_is_the_features_share_of_all_lengths() -> None:
    tokens = Tokens(torch.randn(2, 9, 12), 2)
    wanted = tokens.x_BNC[:, 2:].square().sum(dim=-1).sqrt()
    torch.testing.assert_close(
        patch_scores("norm", tokens, some_attention(9)), wanted / wanted.sum(dim=1, keepdim=True)
    )


@pytest.mark.parametrize("scorer", ["cls", "received", "norm"])
def test_scores_are_fp32_where_features_are_half(scorer: str) -> None:
    attention = some_attention(9)
    half = Attention(*(x.bfloat16() for x in attention[:3]), 0.5)
    assert patch_scores(scorer, Tokens(torch.randn(2, 9, 12).bfloat16(), 1), half).dtype == torch.float32


def test_pseudo_random_numbers_depend_on_seed_and_layer_alone() -> None:
    cpu = torch.device("cpu")
    numbers = pseudo_random(1000, 0, 3, cpu)
    assert torch.equal(numbers, pseudo_random(1000, 0, 3, cpu))
    assert torch.equal(numbers[:10], pseudo_random(10, 0, 3, cpu))
    assert not torch.equal(numbers, pseudo_random(1000, 1, 3, cpu))
    assert not torch.equal(numbers, pseudo_random(1000, 0, 4, cpu))


def test_pseudo_random_numbers_look_uniform() -> None:
    numbers = torch.cat([pseudo_random(196, seed, 3, torch.device("cpu")) for seed in range(100)])
    assert float(numbers.min()) >= 0
    assert float(numbers.max()) < 1
    assert len(numbers.unique()) > 0.999 * len(numbers)
    counts = torch.histc(numbers.float(), bins=10, min=0, max=1)
    assert (counts / len(numbers) - 0.1).abs().max() < 0.01


def test_a_method_that_does_nothing_changes_nothing(tiny_vit: Callable[..., VisionTransformer]) -> None:
    class Nothing(Method):
        name = "nothing"

    model, images = tiny_vit(), torch.randn(2, 3, 32, 32)
    wanted = model(images)
    assert torch.equal(vitrim.reduce_tokens(model, Nothing())(images), wanted)


def test_building_resolves_every_default(tiny_vit: Callable[..., VisionTransformer]) -> None:
    built = vitrim.Random(keep_rate=0.5).build(read_backbone(tiny_vit()).spec)
    assert (built.layers, built.keep_rate) == ((3, 6, 9), (0.5, 0.5, 0.5))
    assert [built.rate(layer) for layer in range(12)] == [1, 1, 1, 0.5, 1, 1, 0.5, 1, 1, 0.5, 1, 1]
    assert built.build(read_backbone(tiny_vit()).spec) == built


def test_a_method_is_a_value() -> None:
    assert vitrim.EViT(keep_rate=0.5) == vitrim.EViT(keep_rate=0.5)
    assert vitrim.EViT(keep_rate=0.5) != vitrim.EViT(keep_rate=0.6)
    with pytest.raises(AttributeError, match="cannot assign to field"):
        vitrim.EViT().keep_rate = 0.5  # type: ignore[misc]
    with pytest.raises(TypeError, match="positional argument"):
        vitrim.EViT(0.5)  # type: ignore[misc]


@pytest.mark.parametrize(
    ("method", "settings", "match"),
    [
        (vitrim.EViT, {"fuse": "yes"}, "evit: fuse.*'yes'"),
        (vitrim.ToMe, {"prop_attn": 0}, "tome: prop_attn.* 0"),
    ],
)
def test_a_switch_is_true_or_false(method: Callable[..., Method], settings: dict[str, object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        method(**settings)
