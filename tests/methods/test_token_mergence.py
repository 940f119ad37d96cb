"""TM: every unimportant patch merges into the important one that it resembles most."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import vitrim
from vitrim.core.tokens import Tokens


def closeness(similarity: str, a: Tensor, b: Tensor) -> float:
    """How much two features resemble each other."""
    return {
        "cosine": lambda: float(a @ b / a.norm() / b.norm()),
        "l1": lambda: -float((a - b).abs().sum()),
        "l2": lambda: -float((a - b).norm()),
    }[similarity]()


@pytest.mark.parametrize("similarity", ["cosine", "l1", "l2", "attention"])
def test_one_reduction_by_hand(moment: Any, similarity: str) -> None:
    method = vitrim.TokenMergence(keep_rate=0.3, layers=(1,), similarity=similarity).build(moment.spec)
    out = method.after_attention(1, moment.tokens, moment.attention)
    assert out.num_patches == method.num_kept(1, 40) == 12
    for image in range(2):
        score_P, x_PC = moment.score_BP[image], moment.patches()[image]
        order = score_P.argsort(descending=True).tolist()
        groups = {patch: [patch] for patch in order[:12]}
        for patch in order[12:]:
            if similarity == "attention":
                paid = moment.matrix_BHNN[image].mean(dim=0)[2 + patch, 2:]
                best = max(groups, key=lambda kept, paid=paid: float(paid[kept]))
            else:
                best = max(groups, key=lambda kept, patch=patch: closeness(similarity, x_PC[patch], x_PC[kept]))
            groups[best].append(patch)
        assert torch.equal(out.x_BNC[image, :2], moment.tokens.x_BNC[image, :2])
        for position, kept in enumerate(order[:12]):
            members = groups[kept]
            weights = score_P[members] / score_P[members].sum()
            torch.testing.assert_close(out.x_BNC[image, 2 + position], weights @ x_PC[members])
            assert out.source_BP[image, members].tolist() == [2 + position] * len(members)
            torch.testing.assert_close(out.weight_BP[image, members], weights)


def test_random_pairing_is_seeded_and_does_not_change_what_is_kept(moment: Any) -> None:
    def sources(seed: int) -> Tensor:
        method = vitrim.TokenMergence(keep_rate=0.3, layers=(1,), similarity="random", seed=seed).build(moment.spec)
        return method.after_attention(1, moment.tokens, moment.attention).source_BP

    assert torch.equal(sources(0), sources(0))
    assert not torch.equal(sources(0), sources(1))
    for image in range(2):
        kept = moment.score_BP[image].argsort(descending=True)[:12]
        assert sources(1)[image, kept].tolist() == list(range(2, 14))


def test_random_pairing_is_spread_over_the_kept_patches(moment: Any) -> None:
    method = vitrim.TokenMergence(keep_rate=0.3, layers=(1,), similarity="random").build(moment.spec)
    source_BP = method.after_attention(1, moment.tokens, moment.attention).source_BP
    assert len(source_BP[0].unique()) == 12
    assert int(torch.bincount(source_BP[0]).max()) < 12


def test_an_unknown_similarity_is_refused(moment: Any) -> None:
    with pytest.raises(ValueError, match=r"similarity .*cosine, l1, l2, attention, random.*'dot'"):
        vitrim.TokenMergence(similarity="dot").build(moment.spec)


@pytest.mark.parametrize("similarity", ["cosine", "l1", "l2", "attention", "random"])
@pytest.mark.parametrize("scorer", ["cls", "received", "norm"])
def test_all_settings_keep_the_announced_count(moment: Any, similarity: str, scorer: str) -> None:
    for keep_rate in (0.01, 0.5, 0.99):
        method = vitrim.TokenMergence(keep_rate=keep_rate, layers=(0,), similarity=similarity, scorer=scorer)
        built = method.build(moment.spec)
        out = built.after_attention(0, moment.tokens, moment.attention)
        assert out.num_patches == built.num_kept(0, 40) == math.ceil(keep_rate * 40)
        assert out.x_BNC.isfinite().all()


def test_the_class_token_is_no_target(moment: Any) -> None:
    x_BNC = moment.tokens.x_BNC.clone()
    x_BNC[:, 2:] = x_BNC[:, :1] + 0.01 * x_BNC[:, 2:]  # all patches are nearest to the class token
    method = vitrim.TokenMergence(keep_rate=0.5, layers=(0,)).build(moment.spec)
    out = method.after_attention(0, moment.tokens._replace(x_BNC=x_BNC), moment.attention)
    assert torch.equal(out.x_BNC[:, :2], x_BNC[:, :2])
    assert int(out.source_BP.min()) >= 2


def test_pairs_in_half_precision_are_those_of_fp32(moment: Any) -> None:
    torch.manual_seed(1)
    x_BNC = torch.randn(2, 42, 24).bfloat16()
    x_BNC[..., 3] += 100  # as a massive activation, the same in all tokens
    attention = moment.attention._replace(
        q_BHND=moment.attention.q_BHND.float(), k_BHND=moment.attention.k_BHND.float()
    )
    method = vitrim.TokenMergence(keep_rate=0.5, layers=(0,)).build(moment.spec)
    half, single = (method.after_attention(0, Tokens(x, 2, traced=True), attention) for x in (x_BNC, x_BNC.float()))
    assert torch.equal(half.source_BP, single.source_BP)
