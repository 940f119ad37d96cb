"""Baselines: patches kept at random, or by the norm of their features."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import vitrim


def kept(moment: Any, **settings: Any) -> Tensor:
    method = vitrim.Random(keep_rate=0.3, layers=(0, 1), **settings).build(moment.spec)
    return (method.after_attention(0, moment.tokens, moment.attention).source_BP >= 0).nonzero()


def test_random_keeps_its_share_and_the_same_positions_in_every_image(moment: Any) -> None:
    method = vitrim.Random(keep_rate=0.3, layers=(0,)).build(moment.spec)
    out = method.after_attention(0, moment.tokens, moment.attention)
    assert out.num_patches == method.num_kept(0, 40) == 12
    assert torch.equal(out.source_BP[0], out.source_BP[1])
    assert torch.equal(out.x_BNC[:, :2], moment.tokens.x_BNC[:, :2])


def test_random_depends_on_the_seed_alone(moment: Any) -> None:
    first = kept(moment)
    torch.manual_seed(99)
    assert torch.equal(kept(moment), first)
    assert not torch.equal(kept(moment, seed=1), first)


def test_random_differs_from_layer_to_layer(moment: Any) -> None:
    method = vitrim.Random(keep_rate=0.5, layers=(0, 1)).build(moment.spec)
    first, second = (method.after_attention(layer, moment.tokens, moment.attention) for layer in (0, 1))
    assert not torch.equal(first.source_BP, second.source_BP)


def test_over_many_seeds_every_patch_is_kept_about_equally_often(moment: Any) -> None:
    times_P = torch.zeros(40)
    for seed in range(300):
        method = vitrim.Random(keep_rate=0.5, layers=(0,), seed=seed).build(moment.spec)
        times_P += method.after_attention(0, moment.tokens, moment.attention).source_BP[0] >= 0
    assert times_P.sum() == 300 * 20
    assert times_P.min() > 105  # 150 expected; 5 standard deviations are 43
    assert times_P.max() < 195


@pytest.mark.parametrize("name", ["feature_norm", "evit-nofuse"])
def test_top_k_by_name_drops_the_rest(moment: Any, name: str) -> None:
    method = vitrim.create_method(name, keep_rate=0.3, layers=(0,)).build(moment.spec)
    score_BP = moment.score_BP if name == "evit-nofuse" else moment.patches().norm(dim=-1)
    out = method.after_attention(0, moment.tokens, moment.attention)
    best = score_BP.topk(12, dim=1).indices
    assert torch.equal(out.patches_BNC[0], moment.patches()[0, best[0]])
    assert int((out.source_BP < 0).sum()) == 2 * 28


@pytest.mark.parametrize(
    "seed", [-1, 2**32, pytest.param(10**400, id="large"), pytest.param(10**5000, id="huge"), 0.5, True, "1"]
)
def test_seeds_that_generators_do_not_take_are_refused(moment: Any, seed: Any) -> None:
    with pytest.raises(ValueError, match=r"seed .*0 to 4294967295"):
        vitrim.Random(seed=seed).build(moment.spec)
