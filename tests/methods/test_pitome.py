"""PiToMe: which blocks match how, counts, ties, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

import vitrim
from vitrim.core import portable
from vitrim.methods.pitome import CHUNK, energies, pairs


@pytest.mark.parametrize(
    ("matching", "protecting"),
    [("split_first", [2, 3]), ("protected_first", [0, 1]), ("split", []), ("protected", [0, 1, 2, 3])],
)
def test_each_half_of_the_blocks_has_its_matching(moment: Any, matching: Any, protecting: list[int]) -> None:
    built = vitrim.PiToMe(matching=matching).build(moment.spec)
    assert [layer for layer in range(4) if built.protects(layer)] == protecting
    assert built.build(moment.spec) == built


def test_a_protected_patch_stays_as_it_is_and_split_ones_may_all_merge(moment: Any) -> None:
    for matching in ("split", "protected"):
        method = vitrim.PiToMe(ratio=0.8, matching=matching, margin=0.3).build(moment.spec)
        out = method.after_attention(0, moment.tokens, moment.attention)
        assert out.num_patches == 32
        rank_BN = portable.order(energies(moment.attention.mean_key()[:, 2:], 0.3))
        alone_BM = out.size_BN.gather(1, out.source_BP.gather(1, rank_BN[:, 16:])) == 1
        assert bool(alone_BM.all()) == (matching == "protected")


def test_equal_energies_rank_by_index_and_an_odd_number_leaves_one_over() -> None:
    key_BND = torch.ones(1, 7, 4)
    keep_BK, rest_BM, slot_BM = pairs(key_BND, portable.order(energies(key_BND, 0.5)), 3, protects=False)
    assert (rest_BM.tolist(), keep_BK.tolist()) == ([[0, 2, 4]], [[6, 1, 3, 5]])
    assert slot_BM.tolist() == [[1, 1, 1]]


def test_energies_of_many_patches_are_those_of_one_product() -> None:
    key_BND = torch.randn(1, CHUNK + 9, 6)
    unit_BND = torch.nn.functional.normalize(key_BND, dim=-1)
    wanted_BN = torch.nn.functional.elu(unit_BND @ unit_BND.mT - 0.4).mean(dim=-1)
    torch.testing.assert_close(energies(key_BND, 0.4), wanted_BN)


def test_counts_are_exact_and_a_list_has_a_ratio_for_each_layer(moment: Any) -> None:
    spec = replace(moment.spec, num_patches=100)
    assert vitrim.PiToMe(ratio=0.55).build(spec).num_kept(0, 100) == 55
    built = vitrim.PiToMe(ratio=[0.8, 1.0], layers=[1, 3]).build(spec)
    assert [built.num_kept(layer, 100) for layer in range(4)] == [100, 80, 100, 100]
    assert built.reducing_layers(spec) == (1,)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ratio": 0.4}, "at least 0.5, since patches merge in pairs"),
        ({"ratio": [0.9, 0.8]}, "4 reducing layers need 4 ratios"),
        ({"margin": 2}, "a margin is a number from -1 to 1"),
        ({"margin": [0.5, 0.4]}, "one number for each of 4 blocks"),
        ({"matching": "halves"}, "matching must be one of"),
    ],
)
def test_what_does_not_fit_is_refused(moment: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"pitome: .*{message}"):
        vitrim.PiToMe(**settings).build(moment.spec)
