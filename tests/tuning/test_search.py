"""Schedules, costs, goals, and the search among them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

import vitrim
from vitrim.backbones.reader import read_backbone
from vitrim.tuning.answers import Answers
from vitrim.tuning.cost import Cost, Macs, Milliseconds
from vitrim.tuning.families import Family, families
from vitrim.tuning.resume import Resumable
from vitrim.tuning.sample import for_search
from vitrim.tuning.search import Candidate, Search
from vitrim.tuning.shapes import Frame, Shape, agree_until, power
from vitrim.tuning.table import measure_table
from vitrim.tuning.target import target_of

FRAME = Frame(num_patches=196, depth=12, first=0, drops_last=True)
SMALL = {"img_size": 32, "patch_size": 4, "embed_dim": 24, "depth": 6, "num_heads": 3, "num_classes": 5}


def squares(patches: Any) -> float:
    return float(sum(p * p for p in patches))


def test_the_default_shape_is_wards() -> None:
    model = VisionTransformer(**(SMALL | {"depth": 12, "img_size": 56}))
    spec = read_backbone(model).spec
    built = vitrim.Ward(left=0.5).built_for(spec)
    assert Frame.of(spec).schedule(power(11, 4, 0.5), 0.5) == built.patches  # type: ignore[attr-defined]


def test_bumped_schedules_meet_the_budget_and_never_grow() -> None:
    rng, shape, budget = random.Random(0), power(11, 4, 0.5), 0.6 * squares([196] * 13)
    for _ in range(50):
        shape = FRAME.bumped(shape, rng)
        schedule = FRAME.fitted(shape, squares, budget)
        assert schedule is not None
        assert 0.98 * budget < squares(schedule) <= budget
        assert all(after <= before for before, after in pairwise(schedule))
        assert all(before - after <= before // 2 for before, after in pairwise(schedule[:-1]))
        vitrim.Ward(patches=schedule)


def test_a_budget_that_no_scale_meets_has_no_schedule() -> None:
    assert FRAME.fitted(power(11, 4, 0.5), squares, 1.0) is None


def test_schedules_agree_until_their_first_different_block() -> None:
    assert agree_until((9, 9, 8, 7), (9, 9, 8, 6)) == 2
    assert agree_until((9, 9), (9, 9)) == 1


def test_answers_of_classes_diverge_by_kullback_leibler_and_embeddings_by_angle() -> None:
    logits = torch.tensor([[2.0, 0.0], [1.0, 1.0]])
    classes = Answers(classes=True)
    one, other = classes.read(logits), classes.read(logits.flip(1))
    p = logits.softmax(1)
    wanted = (p * (p / p.flip(1)).log()).sum(1)
    torch.testing.assert_close(classes.divergence(one, other), wanted)
    angles = Answers(classes=False)
    assert angles.divergence(*map(angles.read, (torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 3.0]])))).item() == 1
    assert angles.read(torch.randn(2, 5, 7)).shape == (2, 7)
    with pytest.raises(ValueError, match="not finite"):
        classes.read(logits * float("nan"))


def small_model() -> VisionTransformer:
    torch.manual_seed(0)
    model = VisionTransformer(**SMALL).eval()
    for block in model.blocks:
        torch.nn.init.normal_(block.attn.qkv.weight, std=0.3)
    return model


class Times:
    """A fixed table: a patch takes a millisecond in each block, and a reduction five."""

    unit, unreduced = "ms", 6 * 64.0

    def __call__(self, patches: Sequence[int]) -> float:
        return sum(after + 5.0 * (after < before) for before, after in pairwise(patches))

    def rounded(self, patches: Sequence[int]) -> tuple[int, ...]:
        return tuple(patches)


def small_search(seed: int, *only: str, times: Times | None = None, **settings: Any) -> tuple[Search, Candidate]:
    """A search by multiply-adds or a table of times, among all families or those of some methods."""
    model = small_model()
    answers, spec = Answers(classes=True), read_backbone(model).spec
    batches = for_search(torch.randn(20, 3, 32, 32))
    with torch.no_grad():
        wanted = [answers.read(model(batch)) for batch in batches]
    macs = vitrim.count_macs(model)
    resumable = Resumable(vitrim.reduce_tokens(model, "ward"), batches, answers)
    kinds = [family for family in families(spec) if not only or family.method in only]

    def cost(family: Family, shares: Shape) -> Cost:
        return times or Macs(spec, macs, lambda schedule: family.make(schedule, shares))

    budget = settings.pop("share", 0.7) * (times.unreduced if times else macs / 1e9)
    search = Search(resumable, wanted, kinds, cost, budget, seed, **settings)
    return search, search.run()


def test_batches_of_a_search_begin_small_and_lose_no_image() -> None:
    rows = torch.arange(100)
    assert [len(part) for part in for_search(rows)] == [8, 8, 16, 32, 32, 4]
    assert torch.equal(torch.cat(for_search(rows)), rows)
    assert [len(part) for part in for_search(rows[:10])] == [8, 2]


@pytest.mark.parametrize("family", families(read_backbone(small_model()).spec), ids=lambda family: str(family.name))
@pytest.mark.parametrize("halved", [False, True])
def test_every_family_follows_any_schedule_of_its_frame(family: Family, halved: bool) -> None:
    spec = read_backbone(small_model()).spec
    shape = power(family.frame.blocks, 0, 1.0) if not halved else (1.0,) * family.frame.blocks
    schedule = family.frame.schedule(shape, 0.9)
    method = family.make(schedule).built_for(spec)
    assert [method.num_kept(layer, patches) for layer, patches in enumerate(schedule[:-1])] == list(schedule[1:])
    assert not method.varies  # so whatever is found can be compiled and exported


def test_the_search_is_among_methods_and_improves_on_their_plain_schedules() -> None:
    search, best = small_search(3, tries=40)
    assert best.cost <= search.budget
    names = {each.family.method for each in search.tried}
    assert names == {"ward", "tome", "tofu", "pitome", "ppt", "diffrate", "evit"}
    whole = [each for each in search.tried if len(each.divergence_I) == len(best.divergence_I)]
    plain = [each.divergence for each in whole if each.shape in list(each.family.frame.plain())]
    assert best.divergence < min(plain)
    assert 3 * len(whole) < len(search.tried) + 3 * 40  # most of the race is run on a part of the images


@pytest.mark.parametrize("times", [None, Times()], ids=["multiply-adds", "times"])
def test_the_same_seed_gives_the_same_schedule(times: Times | None) -> None:
    (one, best), (again, repeated) = (small_search(3, "tome", "diffrate", times=times, tries=8) for _ in range(2))
    assert repeated.family.name == best.family.name and repeated.schedule == best.schedule
    assert torch.equal(repeated.divergence_I, best.divergence_I)
    assert [each.content() for each in one.tried] == [each.content() for each in again.tried]


def test_a_found_shape_is_scaled_to_another_budget() -> None:
    search, best = small_search(3, "tome", tries=4)
    search.budget *= 1.05
    found = search.run_one(best)
    assert found is not None and search.tried[-1] is found and found.shape == best.shape
    assert best.cost < found.cost <= search.budget and len(found.divergence_I) == 20
    assert search.run_one(best) is None  # it was tried


def test_what_is_dropped_and_what_merges_is_searched_too() -> None:
    search, best = small_search(1, "diffrate", tries=30)
    assert len({each.shares for each in search.tried}) > 2
    pruned, merged = best.settings["pruned_to"], best.settings["merged_to"]
    assert all(after <= before for before, after in zip(pruned, merged, strict=True))


def test_a_search_that_is_out_of_time_gives_a_plain_schedule() -> None:
    search, best = small_search(3, tries=25, deadline=0.0)
    assert len(best.divergence_I) == 20 and best.shape in list(best.family.frame.plain())
    assert search.num_tried == 1


def test_a_budget_that_cannot_be_met_says_what_can() -> None:
    with pytest.raises(ValueError, match=r"cannot be met: 0\.\d+ GMACs is the least"):
        small_search(0, "ward", share=0.05)


def test_multiply_adds_of_a_schedule_are_those_that_are_counted() -> None:
    model = VisionTransformer(**SMALL).eval()
    spec, schedule = read_backbone(model).spec, (64, 64, 60, 50, 40, 30, 1)
    ward = families(spec)[0].make
    cost = Macs(spec, vitrim.count_macs(model), ward)
    counted = vitrim.count_macs(vitrim.reduce_tokens(model, vitrim.Ward(patches=schedule)))
    assert cost(schedule) == pytest.approx(counted / 1e9, rel=1e-9)


def test_times_between_those_of_the_table_are_interpolated() -> None:
    table = {64: 8.0, 32: 2.0, 1: 0.0}
    cost = Milliseconds(attention=table, mlp=table, reducing={64: 1.0}, rest=5.0)
    assert cost((64, 64, 64)) == 5 + 2 * (8 + 8)
    assert cost((64, 48, 48)) == 5 + (8 + 5 + 1) + (5 + 5)


def test_the_table_of_times_has_every_part_and_adds_up_to_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vitrim.tuning.table.SECONDS", 0.2)
    model = vitrim.reduce_tokens(VisionTransformer(**SMALL).eval(), "ward")
    kinds = families(read_backbone(vitrim.restore(model)).spec)
    vitrim.reduce_tokens(model, "ward")
    tables = measure_table(model, torch.randn(2, 3, 32, 32), {family.name: family.make for family in kinds})
    table = tables["pitome"]
    assert tables.keys() == {family.name for family in kinds} and tables["tome"].mlp == table.mlp
    assert set(table.attention) == set(table.mlp) >= {64, 1} and set(table.reducing) <= set(table.mlp)
    assert min(table.attention.values()) > 0 and table.rest >= 0
    assert table.unreduced > table.rest and table.noise >= 0


@pytest.mark.parametrize(
    ("goals", "words"),
    [
        ({}, "one goal"),
        ({"speedup": 1.5, "gmacs": 1.0}, "2 are given"),
        ({"speedup": 1}, "speed-up above 1"),
        ({"max_loss": 0}, "loss above 0"),
        ({"gmacs": float("nan")}, "budget above 0"),
        ({"latency_ms": "fast"}, "latency above 0"),
    ],
)
def test_goals_that_are_none_are_refused(goals: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        target_of(**goals)
