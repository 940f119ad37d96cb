"""MCTF: criteria by hand, both directions, one-step-ahead attention against a new softmax, what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import vitrim
from conformance import families
from vitrim.core.tokens import Tokens
from vitrim.methods.mctf import merged_map


def tokens_of(*features: list[float]) -> Tokens:
    return Tokens(torch.tensor([[[0.0, 0.0], *features]], dtype=torch.float64), 1)


def pairs(method: vitrim.MCTF, tokens: Tokens, received: list[float], num_removed: int) -> Any:
    return method.pairs(tokens, torch.tensor([received], dtype=torch.float64), num_removed)


def test_what_receives_little_attention_merges_before_what_resembles_as_much() -> None:
    alike = tokens_of([1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0])
    method = vitrim.MCTF(bidirectional=False, tau_info=1)
    assert pairs(method, alike, [0.4, 0.4, 0.1, 0.1], 1).rest_BM.tolist() == [[3]]
    assert pairs(method, alike, [0.1, 0.1, 0.4, 0.4], 1).rest_BM.tolist() == [[1]]
    by_likeness = vitrim.MCTF(bidirectional=False, tau_info=0, tau_size=0)
    assert pairs(by_likeness, alike, [0.4, 0.4, 0.1, 0.1], 1).rest_BM.tolist() == [[1]]  # a tie goes to the first


def test_half_of_the_patches_go_each_way_and_a_chain_is_one_group() -> None:
    tokens = tokens_of([1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [1.0, 0.3])  # at even places: 1 and 3
    found = pairs(vitrim.MCTF(tau_info=0, tau_size=0), tokens, [1.0] * 4, 2)
    assert found.rest_BM.tolist() == [[1, 0]]  # 1 joins 0, and 0 joins 3
    assert found.keep_BK.tolist() == [[3, 2]]
    assert found.slot_BM.tolist() == [[0, 0]]


def test_a_merged_map_still_sums_to_one_and_equal_tokens_give_the_map_of_one(moment: Any) -> None:
    map_BHNN = moment.matrix_BHNN
    found = vitrim.MCTF().pairs(moment.tokens, map_BHNN.mean(dim=(1, 2))[:, 2:], 11)
    merged = merged_map(map_BHNN, found, torch.rand(2, 42, dtype=torch.float64) + 0.1, 2)
    assert merged.shape == (2, 3, 31, 31)
    torch.testing.assert_close(merged.sum(dim=3), torch.ones(2, 3, 31, dtype=torch.float64))


def test_both_forms_of_attention_agree_where_patches_are_copies() -> None:
    plain = families.small_model("vit").double()
    with torch.no_grad():  # every second patch is like the one before, so that merging loses nothing
        plain.pos_embed[:, 2::2] = plain.pos_embed[:, 1::2]
    columns = torch.randn(1, 3, 32, 4, 4, dtype=torch.float64)  # of patches, 4 pixels each
    images = columns.repeat_interleave(2, dim=3).reshape(1, 3, 32, 32)
    wanted = plain(images)
    for ahead in ("reuse", "exact"):
        model = vitrim.reduce_tokens(
            families.small_model("vit").double(),
            vitrim.MCTF(r=[32], layers=(1,), one_step_ahead=ahead, tau_info=0, tau_size=0),
        )
        model.load_state_dict(plain.state_dict())
        with torch.no_grad():
            assert (model(images) - wanted).abs().max() < 1e-9


def test_some_patches_always_stay(moment: Any) -> None:
    model = vitrim.reduce_tokens(families.small_model("vit"), vitrim.MCTF(r=40))
    counts = [64]
    for layer in range(5):
        counts.append(model.blocks.method.num_kept(layer, counts[-1]))
    assert counts == [64, 64, 32, 16, 9, 9]
    assert vitrim.MCTF(r=40, floor=30).build(moment.spec).num_kept(1, 64) == 32


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="tau_info is a number of at least 0"):
        vitrim.MCTF(tau_info=-1)
    with pytest.raises(ValueError, match="one_step_ahead must be one of reuse, exact"):
        vitrim.MCTF(one_step_ahead="none")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="floor is a whole number of at least 1"):
        vitrim.MCTF(floor=0)
    with pytest.raises(ValueError, match="r = 40 in block 1 is too large"):
        vitrim.reduce_tokens(families.small_model("vit"), vitrim.MCTF(r=40, clamp=False))
