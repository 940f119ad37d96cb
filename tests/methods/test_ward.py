"""Ward: which pairs merge, how many patches each block leaves, what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

import vitrim
from vitrim.core.matching import lighter_strips, match, match_heavier

NEVER_GROW = "whole numbers of at least 1 that do not grow"


def spec_of(moment: Any, **facts: Any) -> Any:
    return replace(moment.spec, **{"depth": 12, "num_patches": 196, "pools_patches": False, "head_macs": 0} | facts)


def test_patches_stay_for_a_third_of_the_blocks_and_then_go_ever_more_slowly(moment: Any) -> None:
    built = vitrim.Ward(left=0.36).build(spec_of(moment))
    assert built.patches == (196, 196, 196, 196, 196, 149, 129, 114, 102, 90, 80, 71, 1)


def test_if_little_is_left_patches_go_from_the_second_block_on(moment: Any) -> None:
    built = vitrim.Ward(left=0.15).build(spec_of(moment))
    assert built.patches == (196, 196, 167, 147, 129, 113, 97, 83, 69, 56, 43, 30, 1)


def test_a_curve_of_one_removes_the_same_everywhere(moment: Any) -> None:
    built = vitrim.Ward(left=0.5, start=2, curve=1).build(spec_of(moment, num_patches=200))
    assert built.patches == (200, 200, 200, 189, 178, 167, 156, 145, 134, 123, 112, 100, 1)


def test_no_block_merges_more_than_half(moment: Any) -> None:
    built = vitrim.Ward(left=0.01, start=9).build(spec_of(moment, num_patches=101))
    assert built.patches[-4:] == (101, 51, 26, 1)


def test_a_share_of_one_keeps_all_in_the_last_block_too(moment: Any) -> None:
    assert set(vitrim.Ward(left=1).build(spec_of(moment)).patches) == {196}


@pytest.mark.parametrize("facts", [{"pools_patches": True}, {"head_macs": 7}])
def test_the_last_block_merges_like_the_others_if_the_head_reads_patches(moment: Any, facts: dict[str, Any]) -> None:
    built = vitrim.Ward(left=0.5).build(spec_of(moment, **facts))
    assert built.patches[-3:] == (112, 105, 98)


def test_at_another_size_the_same_shares_stay(moment: Any) -> None:
    built = vitrim.Ward(patches=[196, *[196] * 6, 147, *[98] * 5]).build(spec_of(moment))
    assert [built.num_kept(layer, 196) for layer in (0, 6)] == [196, 147]
    assert built.num_kept(6, 101) == 76  # 101 * 147 / 196 = 75.75
    assert not built.is_active(0, 101)


def test_mass_decides_which_of_two_alike_pairs_merges() -> None:
    """Patches 0 and 1 resemble each other more than 2 and 3 do, but are worth more: Ward merges 2 into 3."""
    metric = torch.tensor([[[1.0, 0.0], [0.98, 0.2], [0.0, 1.0], [0.3, 0.95]]])
    mass = torch.tensor([[9.0, 9.0, 1.0, 1.0]])
    alike, cheap = match(metric, 0, 1), match(metric, 0, 1, mass)
    assert alike[1].tolist() == [[0]] and cheap[1].tolist() == [[2]]
    keep_BK, _, slot_BM = cheap
    assert keep_BK[0, slot_BM[0, 0]] == 3


def costs_of(metric_BNC: torch.Tensor, mass_BN: torch.Tensor) -> torch.Tensor:
    """What it costs to merge each patch into each other one, by the definition."""
    unit = torch.nn.functional.normalize(metric_BNC, dim=-1)
    a, b = mass_BN.unsqueeze(2), mass_BN.unsqueeze(1)
    return (1 - unit @ unit.transpose(1, 2)) * a * b / (a + b)


@pytest.mark.parametrize("num_patches", [2, 3, 4, 5, 14, 33])
def test_the_lighter_half_merges_into_the_cheapest_heavier_patches_that_stay(num_patches: int) -> None:
    torch.manual_seed(0)
    metric, mass = torch.randn(3, num_patches + 1, 8).double(), torch.rand(3, num_patches).double() + 0.1
    keep_BK, rest_BM, slot_BM = match_heavier(metric, 1, num_patches // 3 or 1, mass)
    for costs, own, keep, rest, slot in zip(
        costs_of(metric[:, 1:], mass), mass, keep_BK, rest_BM, slot_BM, strict=True
    ):
        assert sorted(keep.tolist() + rest.tolist()) == list(range(num_patches))
        cheapest = costs.masked_fill(own.unsqueeze(0) <= own.unsqueeze(1), torch.inf).amin(dim=1)
        lighter = own.argsort()[: num_patches // 2]
        wanted = lighter[cheapest[lighter].argsort()[: len(rest)]]
        assert set(rest.tolist()) == set(wanted.tolist())
        for patch, place in zip(rest.tolist(), slot.tolist(), strict=True):
            choices = [other for other in keep.tolist() if own[other] > own[patch]]
            assert keep[place] == min(choices, key=lambda other: float(costs[patch, other]))


def test_the_order_of_the_patches_decides_nothing_among_heavier_ones() -> None:
    torch.manual_seed(0)
    metric, mass, order = torch.randn(1, 16, 8), torch.rand(1, 16) + 0.1, torch.randperm(16)
    keep, rest, slot = (each[0] for each in match_heavier(metric, 0, 5, mass))
    mixed = [each[0] for each in match_heavier(metric[:, order], 0, 5, mass[:, order])]
    pairs = {(int(a), int(keep[b])) for a, b in zip(rest, slot, strict=True)}
    assert {(int(order[a]), int(order[mixed[0][b]])) for a, b in zip(*mixed[1:], strict=True)} == pairs


def test_all_but_the_heaviest_of_equal_masses_propose() -> None:
    keep_BK, rest_BM, slot_BM = match_heavier(torch.ones(1, 4, 2), 0, 2, torch.ones(1, 4))
    assert (rest_BM.tolist(), keep_BK.tolist(), slot_BM.tolist()) == ([[2, 3]], [[0, 1]], [[0, 0]])
    assert lighter_strips(1) == ()


def test_equal_masses_merge_as_tome_does() -> None:
    torch.manual_seed(0)
    metric = torch.randn(2, 17, 8)
    for ours, tome in zip(match(metric, 1, 5, torch.ones(2, 16)), match(metric, 1, 5), strict=True):
        assert torch.equal(ours, tome)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"left": 0}, "left must be above 0"),
        ({"left": "half"}, "left must be above 0"),
        ({"start": -1}, "start is the index of a block"),
        ({"start": 1.5}, "start is the index of a block"),
        ({"curve": 0}, "curve is above 0"),
        ({"patches": [4]}, NEVER_GROW),
        ({"patches": [4, 5]}, NEVER_GROW),
        ({"patches": [4, 0]}, NEVER_GROW),
        ({"patches": "196"}, NEVER_GROW),
        ({"scorer": "best"}, "scorer"),
        ({"partner": "even"}, "partner"),
    ],
)
def test_settings_that_no_model_could_take_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        vitrim.Ward(**settings)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"start": 12}, "start is a block from 0 to 10"),
        ({"patches": [196, 98]}, "13 numbers"),
        ({"patches": [196, 90, *[90] * 11]}, "block 0 cannot merge 196 patches to 90"),
    ],
)
def test_settings_that_do_not_fit_the_model_are_refused(moment: Any, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        vitrim.Ward(**settings).build(spec_of(moment))


def test_patches_of_a_first_block_that_cannot_reduce_are_refused(moment: Any) -> None:
    with pytest.raises(ValueError, match="blocks before 2"):
        vitrim.Ward(patches=[196, 150, *[150] * 11]).build(spec_of(moment, first_reducible_layer=2))
