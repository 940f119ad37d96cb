"""PPT: each image merges or drops by itself; where, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

import vitrim
from vitrim.core import ops
from vitrim.core.matching import match


def test_each_image_merges_or_drops_by_the_variance_of_its_scores(moment: Any) -> None:
    method = vitrim.PPT(r=8, layers=[0]).build(moment.spec)
    score_BN = method.scores(moment.tokens, moment.attention)
    torch.testing.assert_close(score_BN.sum(dim=1), torch.ones(2).double())
    low, high = score_BN.var(dim=1).sort().values.tolist()
    out = replace(method, threshold=(low + high) / 2).after_attention(0, moment.tokens, moment.attention)
    assert out.num_patches == 32
    assert sorted((out.source_BP < 0).sum(dim=1).tolist()) == [0, 8]
    merging = int(score_BN.var(dim=1).argmin())
    merged = ops.merge(moment.tokens, *match(moment.attention.mean_key(), 2, 8), None)
    kept_BK, _ = ops.rank(score_BN, 32)
    dropped = ops.keep(moment.tokens, kept_BK)
    for image, wanted in ((merging, merged), (1 - merging, dropped)):
        torch.testing.assert_close(out.x_BNC[image], wanted.x_BNC[image])
        assert torch.equal(out.source_BP[image], wanted.source_BP[image])
        torch.testing.assert_close(out.weight_BP[image], wanted.weight_BP[image])
    assert out.size_BN.sum(dim=1)[merging] == 42
    assert out.size_BN[1 - merging].tolist() == [1.0] * 34


def test_three_blocks_remove_fifty_patches_each_and_a_list_has_a_number_for_each(moment: Any) -> None:
    spec = replace(moment.spec, depth=12, num_patches=196)
    built = vitrim.PPT().build(spec)
    assert (built.layers, built.r) == ((3, 6, 9), (50, 50, 50))
    assert built.reducing_layers(spec) == (3, 6, 9)
    assert [built.num_removed(layer, entering) for layer, entering in ((3, 196), (6, 146), (9, 96))] == [50, 50, 48]
    assert vitrim.PPT(r=[60, 0], layers=[2, 7]).build(spec).reducing_layers(spec) == (2,)
    with pytest.raises(ValueError, match="the 3 blocks that layers names, not"):
        vitrim.PPT(r=[60, 20], layers=[3, 6, 9]).build(spec)


def test_a_budget_is_spread_over_its_blocks(tiny_vit: Any) -> None:
    model = tiny_vit()
    full = vitrim.count_macs(model)
    method = vitrim.method_for_macs(model, "ppt", 0.8 * full / 1e9, layers=(3, 6))
    assert len(method.r) == 2
    assert 0.78 * full < vitrim.count_macs(vitrim.reduce_tokens(model, method)) <= 0.8 * full


@pytest.mark.parametrize("threshold", [-1.0, float("nan"), "low"])
def test_a_threshold_that_is_none_is_refused(threshold: Any) -> None:
    with pytest.raises(ValueError, match="threshold is a number of at least 0"):
        vitrim.PPT(threshold=threshold)
