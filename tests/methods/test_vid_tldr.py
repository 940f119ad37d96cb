"""vid-TLDR: what counts as foreground, what becomes of background, where it acts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

import vitrim
from vitrim.methods.vid_tldr import foreground


def test_foreground_is_how_much_sharper_than_average_a_patch_attends(moment: Any) -> None:
    paid_BPN = moment.matrix_BHNN.mean(dim=1)[:, 2:]
    sharpness_BP = paid_BPN.xlogy(paid_BPN).sum(dim=-1)
    above_BP = (sharpness_BP - sharpness_BP.mean(dim=1, keepdim=True)).clamp(min=0)
    torch.testing.assert_close(foreground(moment.attention, 2), above_BP / above_BP.amax(dim=1, keepdim=True))


def test_where_no_patch_stands_out_there_is_no_foreground(moment: Any) -> None:
    even = moment.attention._replace(q_BHND=torch.zeros_like(moment.attention.q_BHND))
    assert foreground(even, 2).eq(0).all()


def test_background_is_dropped_and_what_merges_counts_as_far_as_it_is_foreground(moment: Any) -> None:
    method = vitrim.VidTLDR(r=[15], layers=(0,))
    out = method.after_attention(0, moment.tokens, moment.attention)
    assert out.source_BP is not None and out.size_BN is not None
    score_BP = foreground(moment.attention, 2)
    dropped_BP = out.source_BP < 0
    assert dropped_BP.any() and score_BP[dropped_BP].eq(0).all()
    assert out.num_patches == 25
    for source_P, size_N, score_P in zip(out.source_BP, out.size_BN, score_BP, strict=True):
        counts = torch.bincount(source_P[source_P >= 0], minlength=27)
        assert (size_N[2:][counts[2:] == 1] == 1).all()
        assert (size_N[2:][counts[2:] > 1] > 1).all()
        assert size_N.sum() <= 27 + score_P.sum()


def test_it_acts_in_the_first_blocks_that_can_be_read(moment: Any) -> None:
    spec = replace(moment.spec, depth=12, num_patches=196)
    assert vitrim.VidTLDR().build(spec).layers == (0, 1, 2, 3)
    assert vitrim.VidTLDR().build(replace(spec, first_reducible_layer=3)).layers == (3, 4, 5, 6)
