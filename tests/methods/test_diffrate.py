"""DiffRate: the published counts, how they bend and carry over, one block by hand, what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

import vitrim
from vitrim.core.schedule import round_share
from vitrim.methods.diffrate.method import PUBLISHED

PLAIN = {"depth": 12, "num_patches": 196}


def spec_of(moment: Any, **facts: Any) -> Any:
    return replace(moment.spec, **(PLAIN | facts))


def counts(built: vitrim.DiffRate, depth: int = 12, num_patches: int = 196) -> list[tuple[int, int]]:
    out = []
    for layer in range(depth):
        out.append(built.counts(layer, num_patches))
        num_patches = built.num_kept(layer, num_patches)
    return out


@pytest.mark.parametrize("name", PUBLISHED)
def test_at_strength_one_a_schedule_gives_the_published_counts(moment: Any, name: Any) -> None:
    built = vitrim.DiffRate(schedule=name).build(spec_of(moment))
    assert counts(built) == list(zip(*PUBLISHED[name], strict=True))
    assert built.build(spec_of(moment)) == built


def test_strength_multiplies_how_much_goes_in_each_step(moment: Any) -> None:
    spec = spec_of(moment)
    kept = {strength: counts(vitrim.DiffRate(strength=strength).build(spec)) for strength in (0.0, 0.5, 1.0, 2.0)}
    assert kept[0.0] == [(196, 196)] * 12
    assert kept[2.0][1] == (round_share((195 / 196) ** 2, 196), round_share((193 / 195) ** 2, 194))
    totals = [sum(merged for _, merged in kept[strength]) for strength in sorted(kept)]
    assert totals == sorted(totals, reverse=True)
    assert kept[2.0][-1] == (1, 1)


@pytest.mark.parametrize(("depth", "num_patches"), [(24, 256), (4, 64), (1, 196)])
def test_other_depths_and_resolutions_take_a_schedule_in_proportion(moment: Any, depth: int, num_patches: int) -> None:
    built = vitrim.DiffRate().build(spec_of(moment, depth=depth, num_patches=num_patches))
    merged = [merged for _, merged in counts(built, depth, num_patches)]
    assert merged == sorted(merged, reverse=True)
    assert merged[-1] == max(1, round(num_patches * 2 / 196))
    if depth > 1:
        assert merged[0] == num_patches
        assert merged[-2] == pytest.approx(num_patches * 55 / 196, abs=2)


@pytest.mark.parametrize("facts", [{"pools_patches": True}, {"has_cls": False}])
def test_where_the_head_reads_patches_the_last_block_keeps_them(moment: Any, facts: dict[str, Any]) -> None:
    built = vitrim.DiffRate(scorer="received").build(spec_of(moment, **facts))
    assert [merged for _, merged in counts(built)][-2:] == [55, 55]


def test_a_block_by_hand(moment: Any) -> None:
    method = vitrim.DiffRate(pruned_to=[30, 18, 18, 18], merged_to=[18] * 4).build(moment.spec)
    sizes = torch.rand(2, 42, dtype=torch.float64) + 0.5
    out = method.after_attention(0, moment.tokens._replace(size_BN=sizes), moment.attention)
    assert out.num_patches == 18
    for image in range(2):
        order = moment.score_BP[image].argsort(descending=True).tolist()
        x_PC = moment.patches()[image]
        unit_PC = x_PC / x_PC.norm(dim=1, keepdim=True)
        groups = {kept: [kept] for kept in order[:18]}
        growth = dict.fromkeys(order[:18], 0.0)
        for patch in order[18:30]:
            best = max(order[:18], key=lambda kept, patch=patch: float(unit_PC[patch] @ unit_PC[kept]))
            groups[best].append(patch)
            growth[best] += float(sizes[image, 2 + patch] * (unit_PC[patch] @ unit_PC[best]))
        for position, (kept, members) in enumerate(groups.items()):
            torch.testing.assert_close(out.x_BNC[image, 2 + position], x_PC[members].mean(dim=0))
            assert float(out.size_BN[image, 2 + position]) == pytest.approx(
                max(0.0, float(sizes[image, 2 + kept]) + growth[kept])
            )
            assert out.source_BP[image, members].tolist() == [2 + position] * len(members)
        assert (out.source_BP[image, order[30:]] == -1).all()


def test_a_size_never_falls_to_nothing(moment: Any) -> None:
    x_BNC = moment.tokens.x_BNC.clone()
    x_BNC[:, 2:] = x_BNC[:, 2:3]
    x_BNC[:, 20:] *= -1  # all that merge are the opposite of what they merge into
    attention = moment.attention._replace(q_BHND=torch.zeros_like(moment.attention.q_BHND))  # so that index ranks
    method = vitrim.DiffRate(pruned_to=[40, 18, 18, 18], merged_to=[18] * 4).build(moment.spec)
    out = method.after_attention(0, moment.tokens._replace(x_BNC=x_BNC), attention)
    assert out.size_BN.log().isfinite().all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pruned_to": [40] * 4}, "go together"),
        ({"pruned_to": [40] * 3, "merged_to": [40] * 3}, "each of 4 blocks, not 3"),
        ({"pruned_to": [40] * 4, "merged_to": [40] * 3}, "has 4 numbers and merged_to 3"),
        ({"pruned_to": [41, 30, 30, 30], "merged_to": [30] * 4}, "block 0 cannot keep 41 patches: only 40 enter"),
        ({"pruned_to": [40, 31, 9, 9], "merged_to": [30, 9, 9, 9]}, "block 1 cannot keep 31 patches: only 30 enter"),
        ({"pruned_to": [20] * 4, "merged_to": [30] * 4}, "cannot merge 20 patches into 30"),
        ({"pruned_to": [0] * 4, "merged_to": [0] * 4}, "whole numbers of at least 1"),
        ({"pruned_to": 5, "merged_to": 5}, "a number for each block, not 5"),
        ({"patches": 40}, "give these too"),
        ({"strength": -1}, "strength is a number from 0"),
        ({"schedule": "deit_huge"}, "schedule must be one of"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_line(moment: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"diffrate: .*{message}") as error:
        vitrim.DiffRate(**settings).build(moment.spec)
    assert "\n" not in str(error.value)


def test_a_budget_is_solved_for_by_its_strength(tiny_vit: Any) -> None:
    model = tiny_vit()
    full = vitrim.count_macs(model)
    for share in (0.9, 0.6):
        method = vitrim.method_for_macs(model, "diffrate", share * full / 1e9, schedule="deit_tiny_0.8")
        assert method.schedule == "deit_tiny_0.8"
        found = vitrim.count_macs(vitrim.reduce_tokens(model, method))
        assert (share - 0.02) * full < found <= share * full
        vitrim.restore(model)
