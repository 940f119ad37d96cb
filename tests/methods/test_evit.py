"""EViT: counts, one reduction by hand, settings."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

import vitrim

# Tokens with the class token after the reducing blocks of a model with 196 patches.
FUSED = {0.9: (179, 163, 148), 0.8: (159, 129, 105), 0.7: (140, 100, 72), 0.6: (120, 74, 46), 0.5: (100, 52, 28)}
DROPPED = {0.9: (178, 161, 145), 0.8: (158, 127, 102), 0.7: (139, 98, 69), 0.6: (119, 72, 44), 0.5: (99, 50, 26)}


def counts(method: Any, depth: int = 12, num_patches: int = 196) -> list[int]:
    out = []
    for layer in range(depth):
        num_patches = method.num_kept(layer, num_patches)
        out.append(1 + num_patches)
    return out


@pytest.mark.parametrize(("fuse", "table"), [(True, FUSED), (False, DROPPED)])
def test_token_counts_are_the_papers(moment: Any, fuse: bool, table: dict[float, tuple[int, ...]]) -> None:
    spec = replace(moment.spec, depth=12, num_patches=196)
    for keep_rate, (third, sixth, ninth) in table.items():
        built = vitrim.EViT(keep_rate=keep_rate, fuse=fuse).build(spec)
        assert counts(built) == [197] * 3 + [third] * 3 + [sixth] * 3 + [ninth] * 3


@pytest.mark.parametrize("fuse", [True, False])
def test_one_reduction_by_hand(moment: Any, fuse: bool) -> None:
    method = vitrim.EViT(keep_rate=0.4, layers=(1,), fuse=fuse).build(moment.spec)
    out = method.after_attention(1, moment.tokens, moment.attention)
    assert out.num_patches == method.num_kept(1, 40) == 16 + fuse
    for image in range(2):
        order = moment.score_BP[image].argsort(descending=True)
        assert torch.equal(out.x_BNC[image, :2], moment.tokens.x_BNC[image, :2])
        assert torch.equal(out.x_BNC[image, 2:18], moment.patches()[image, order[:16]])
        if fuse:
            weights = moment.score_BP[image, order[16:]]
            fused = sum(w * x for w, x in zip(weights, moment.patches()[image, order[16:]], strict=True))
            torch.testing.assert_close(out.x_BNC[image, 18], fused)
        assert out.source_BP[image, order[16:]].tolist() == [18 if fuse else -1] * 24
        assert out.weight_BP[image, order[:16]].tolist() == [1.0] * 16


def test_a_block_that_is_no_reducing_one_does_nothing(moment: Any) -> None:
    method = vitrim.EViT(keep_rate=0.4, layers=(1,)).build(moment.spec)
    for layer in (0, 2, 3):
        assert not method.is_active(layer, moment.tokens.num_patches)
    assert method.is_active(1, moment.tokens.num_patches)


def test_ties_keep_the_patches_that_come_first(moment: Any) -> None:
    q_BHND = torch.zeros_like(moment.attention.q_BHND)  # uniform attention
    method = vitrim.EViT(keep_rate=0.5, layers=(0,), fuse=False).build(moment.spec)
    out = method.after_attention(0, moment.tokens, moment.attention._replace(q_BHND=q_BHND))
    assert torch.equal(out.x_BNC, moment.tokens.x_BNC[:, :22])


@pytest.mark.parametrize("scorer", ["received", "norm"])
def test_other_scorers_rank_by_their_own_score(moment: Any, scorer: str) -> None:
    method = vitrim.EViT(keep_rate=0.5, layers=(0,), scorer=scorer).build(moment.spec)
    score = {
        "received": moment.matrix_BHNN.mean(dim=(1, 2))[:, 2:],
        "norm": moment.patches().norm(dim=-1),
    }[scorer]
    out = method.after_attention(0, moment.tokens, moment.attention)
    best = score.argsort(dim=1, descending=True)[:, :20]
    assert torch.equal(out.x_BNC[0, 2:22], moment.patches()[0, best[0]])


@pytest.mark.parametrize("scorer", ["cls", "received", "norm"])
def test_the_fused_token_is_no_larger_than_the_patches_in_it(moment: Any, scorer: str) -> None:
    tokens = moment.tokens._replace(x_BNC=moment.tokens.x_BNC + 5)  # so that nothing cancels out
    method = vitrim.EViT(keep_rate=0.5, layers=(0,), scorer=scorer).build(moment.spec)
    out = method.after_attention(0, tokens, moment.attention)
    fused_BP = out.source_BP == out.x_BNC.shape[1] - 1
    weight_BP = torch.where(fused_BP, out.weight_BP, 0.0)
    assert fused_BP.sum(dim=1).tolist() == [20, 20]
    assert (weight_BP.sum(dim=1) < 1).all()
    torch.testing.assert_close(out.x_BNC[:, -1], (weight_BP.unsqueeze(1) @ tokens.patches_BNC).squeeze(1))
    if scorer == "norm":
        norm_BP = tokens.patches_BNC.norm(dim=-1)
        torch.testing.assert_close(weight_BP, torch.where(fused_BP, norm_BP, 0.0) / norm_BP.sum(dim=1, keepdim=True))


def test_features_of_zero_have_equal_norms_and_no_nan(moment: Any) -> None:
    tokens = moment.tokens._replace(x_BNC=torch.zeros_like(moment.tokens.x_BNC))
    out = vitrim.EViT(scorer="norm", layers=(0,)).build(moment.spec).after_attention(0, tokens, moment.attention)
    assert out.x_BNC.eq(0).all()


def test_the_fused_token_of_a_model_in_fp16_does_not_overflow(tiny_vit: Any) -> None:
    model = tiny_vit(class_token=False, global_pool="avg").half()
    vitrim.reduce_tokens(model, "evit", keep_rate=0.5, scorer="norm")
    with torch.no_grad(), vitrim.trace(model, features=True) as traced:
        model(400 * torch.randn(2, 3, 32, 32).half())
    largest = traced.layers[0].features_BNC.float().norm(dim=-1).amax(dim=1)
    assert largest.isfinite().all()
    assert (traced.layers[0].features_BNC[:, -1].float().norm(dim=-1) < largest).all()


def test_explicit_counts_override_rates_and_none_falls_back(moment: Any) -> None:
    built = vitrim.EViT(keep_rate=0.5, layers=(2,), tokens=(40, 30, None, None)).build(moment.spec)
    assert counts(built, 4, 40) == [41, 32, 17 + 1, 17 + 1]  # 30 and the fused one; ceil(31 / 2) and the fused one


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ((10, 5, 3), r"tokens .*4 blocks.*\(10, 5, 3\)"),
        ((10, 5, 3, 0), r"tokens .*at least 1.*\(10, 5, 3, 0\)"),
        ((41, 5, 3, 2), "block 0 .*41 patches.* 40 "),
        ((10, 5, 7, 2), "block 2 .*7 patches.* 6 "),
    ],
)
def test_counts_that_do_not_fit_are_refused(moment: Any, tokens: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=f"evit: {message}"):
        vitrim.EViT(tokens=tokens).build(moment.spec)


def test_explicit_counts_need_no_default_layers(moment: Any) -> None:
    spec = replace(moment.spec, depth=2)
    assert counts(vitrim.EViT(tokens=(20, 10)).build(spec), 2, 40) == [22, 12]


def test_the_smallest_rate_keeps_one_patch(moment: Any) -> None:
    method = vitrim.EViT(keep_rate=1e-9, layers=(0,)).build(moment.spec)
    out = method.after_attention(0, moment.tokens, moment.attention)
    assert torch.equal(out.x_BNC[:, :2], moment.tokens.x_BNC[:, :2])
    assert out.num_patches == 2


def test_extra_macs_are_one_row_of_attention_and_the_weighted_sum(moment: Any) -> None:
    built = vitrim.EViT(keep_rate=0.5, layers=(1,)).build(moment.spec)
    assert built.extra_macs(1, 40, moment.spec) == 42 * 24 + 40 * 24
    assert built.extra_macs(0, 40, moment.spec) == 0
