"""ToMe: schedules, one merge by hand, proportional attention, what is too much."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

import vitrim
from vitrim.core.matching import match


def spec_of(moment: Any, depth: int = 12, num_patches: int = 196) -> Any:
    return replace(moment.spec, depth=depth, num_patches=num_patches)


def counts(built: vitrim.ToMe, num_patches: int = 196) -> list[int]:
    out = []
    for layer in range(len(built.r)):
        num_patches = built.num_kept(layer, num_patches)
        out.append(1 + num_patches)
    return out


def test_thirteen_per_block_gives_the_papers_counts(moment: Any) -> None:
    built = vitrim.ToMe(r=13).build(spec_of(moment))
    assert counts(built) == [184, 171, 158, 145, 132, 119, 106, 93, 80, 67, 54, 41]


@pytest.mark.parametrize(
    ("r", "wanted"),
    [
        ((13, -1.0), (26, 23, 21, 18, 16, 14, 11, 9, 7, 4, 2, 0)),
        ((8, 0.0), (8,) * 12),
        (5, (5,) * 12),
        ([4, 3, 2, 1], (4, 3, 2, 1, *[0] * 8)),
        ([0] * 12, (0,) * 12),
    ],
)
def test_r_is_a_number_or_a_pair_or_a_list(moment: Any, r: Any, wanted: tuple[int, ...]) -> None:
    assert vitrim.ToMe(r=r).build(spec_of(moment)).r == wanted


@pytest.mark.parametrize(
    ("r", "message"),
    [
        (99, "r = 99 in block 0 .*196 patches.*98"),
        (16, r"r = 16 in block \d+ "),
        (-1, "r .*at least 0"),
        ([1] * 13, r"r .*12 blocks.*\[1, 1"),
        ([0, -2], "r .*at least 0"),
        ((3, -2.0), "r .*at least 0"),
    ],
)
def test_r_that_does_not_fit_is_refused(moment: Any, r: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"tome: {message}"):
        vitrim.ToMe(r=r).build(spec_of(moment))


def test_clamped_the_last_blocks_merge_what_they_can(moment: Any) -> None:
    built = vitrim.ToMe(r=16, clamp=True).build(spec_of(moment))
    assert counts(built) == [181, 165, 149, 133, 117, 101, 85, 69, 53, 37, 21, 11]
    with pytest.raises(ValueError, match="clamp=True"):
        vitrim.ToMe(r=16).build(spec_of(moment))


@pytest.mark.parametrize(("r", "wanted"), [((13, -1), (13, -1.0)), ((5, 1), (5, 1.0))])
def test_a_pair_of_whole_numbers_is_a_pair(moment: Any, r: Any, wanted: Any) -> None:
    spec = spec_of(moment)
    assert vitrim.ToMe(r=r).build(spec).r == vitrim.ToMe(r=wanted).build(spec).r


@pytest.mark.parametrize(
    "r",
    ["13", [2.7], 3.5, None, True, (3, 1e308), (10**400, 0.5)],
    ids=["text", "fraction", "float", "None", "bool", "beyond floats", "digits"],
)
def test_r_of_another_kind_is_refused(moment: Any, r: Any) -> None:
    with pytest.raises(ValueError, match="tome"):
        vitrim.ToMe(r=r).build(spec_of(moment))


@pytest.mark.parametrize("num_prefix", [0, 1, 2, 5])
@pytest.mark.parametrize("num_patches", [2, 7, 8, 33])
def test_half_of_the_patches_can_merge_whatever_the_prefix(num_prefix: int, num_patches: int) -> None:
    metric = torch.randn(2, num_prefix + num_patches, 6)
    keep_BK, rest_BM, slot_BM = match(metric, num_prefix, num_patches // 2)
    assert rest_BM.shape == slot_BM.shape == (2, num_patches // 2)
    for keep, rest, slot in zip(keep_BK.tolist(), rest_BM.tolist(), slot_BM.tolist(), strict=True):
        assert sorted(keep + rest) == list(range(num_patches))
        targets = {keep[position] for position in slot}
        assert all((target + num_prefix) % 2 == 1 for target in targets)  # odd positions of the whole sequence
        assert all((source + num_prefix) % 2 == 0 for source in rest)


def test_one_merge_by_hand(moment: Any) -> None:
    method = vitrim.ToMe(r=[5, 0, 0, 0]).build(moment.spec)
    sizes = torch.randint(1, 6, (2, 42)).double()
    out = method.after_attention(0, moment.tokens._replace(size_BN=sizes), moment.attention)
    assert out.num_patches == 35
    for image in range(2):
        key_PD = moment.attention.k_BHND[image].mean(dim=0)[2:]
        key_PD = key_PD / key_PD.norm(dim=1, keepdim=True)
        a, b = range(0, 40, 2), range(1, 40, 2)
        proposals = {i: max(b, key=lambda j, i=i: float(key_PD[i] @ key_PD[j])) for i in a}
        best = sorted(a, key=lambda i: -float(key_PD[i] @ key_PD[proposals[i]]))[:5]
        groups = {i: [i] for i in [*(i for i in a if i not in best), *b]}
        for i in best:
            groups[proposals[i]].append(i)
        for position, members in enumerate(groups.values()):
            size_M = sizes[image, 2:][members]
            mean_C = size_M @ moment.patches()[image, members] / size_M.sum()
            torch.testing.assert_close(out.x_BNC[image, 2 + position], mean_C)
            assert out.size_BN[image, 2 + position] == size_M.sum()
            assert out.source_BP[image, members].tolist() == [2 + position] * len(members)


def test_proportional_attention_starts_once_something_merged(moment: Any) -> None:
    assert vitrim.ToMe().size_in_attention
    assert not vitrim.ToMe(prop_attn=False).size_in_attention
    first, later = (vitrim.ToMe(r=[0, 2, 0, 0]).build(moment.spec).is_active(layer, 40) for layer in (0, 1))
    assert (first, later) == (False, True)


def test_keys_of_half_precision_are_compared_in_fp32() -> None:
    metric = torch.randn(2, 41, 24).bfloat16()
    for half, single in zip(match(metric, 1, 15), match(metric.float(), 1, 15), strict=True):
        assert torch.equal(half, single)


def test_equal_keys_merge_in_the_order_of_their_index() -> None:
    keep_BK, rest_BM, _ = match(torch.ones(1, 9, 4), 1, 3)
    assert rest_BM.tolist() == [[1, 3, 5]]
    assert keep_BK.tolist() == [[7, 0, 2, 4, 6]]


def test_keys_of_zero_do_not_break_the_matching() -> None:
    keep_BK, rest_BM, slot_BM = match(torch.zeros(1, 9, 4), 1, 3)
    assert sorted(keep_BK[0].tolist() + rest_BM[0].tolist()) == list(range(8))
    assert int(slot_BM.max()) < 5


def test_matching_does_not_look_at_the_prefix() -> None:
    metric = torch.randn(2, 20, 6)
    other = metric.clone()
    other[:, :3] = 1e6
    assert all(torch.equal(a, b) for a, b in zip(match(metric, 3, 8), match(other, 3, 8), strict=True))
