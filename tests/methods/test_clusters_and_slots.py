"""Clusters and slots before a block: counts by stage, one step by hand, what is learned, what is refused."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch

import vitrim
from conformance import families
from vitrim.core.slots import SlotMethod, holders, to_slots
from vitrim.core.tokens import Tokens
from vitrim.methods.k_medoids import medoids
from vitrim.methods.sinkhorn import transport

CLUSTERS = (vitrim.DPCKNN, vitrim.KMedoids)
SLOTS = (vitrim.Sinkhorn, vitrim.PatchMerger, vitrim.SiT)


def spec_of(moment: Any, **facts: Any) -> Any:
    return replace(moment.spec, **({"depth": 12, "num_patches": 196} | facts))


def counts(built: Any, num_patches: int = 196) -> list[int]:
    return [num_patches := built.num_kept(layer, num_patches) for layer in (3, 6, 9)]


@pytest.mark.parametrize("method", [*CLUSTERS, *SLOTS])
@pytest.mark.parametrize(("rate", "wanted"), [(0.7, [137, 96, 67]), (0.9, [176, 158, 142]), (0.5, [98, 49, 24])])
def test_a_stage_keeps_the_published_share_of_the_first_patches(
    moment: Any, method: Any, rate: float, wanted: list[int]
) -> None:
    assert counts(method(keep_rate=rate).build(spec_of(moment))) == wanted


@pytest.mark.parametrize("method", CLUSTERS)
def test_images_of_another_size_take_the_counts_in_proportion(moment: Any, method: Any) -> None:
    assert counts(method(keep_rate=0.5).build(spec_of(moment)), 400) == [200, 100, 48]  # 24 of 49 is less than half


@pytest.mark.parametrize("method", SLOTS)
def test_images_of_another_size_get_the_learned_slots(moment: Any, method: Any) -> None:
    built = method(keep_rate=0.5).build(spec_of(moment))
    assert counts(built, 400) == [98, 49, 24]
    assert counts(built, 40) == [40, 40, 24]


def test_counts_are_exact_where_a_float_product_is_not(moment: Any) -> None:
    built = vitrim.DPCKNN(keep_rate=0.29).build(spec_of(moment, num_patches=100))
    assert built.num_kept(3, 100) == 29
    assert int(0.29 * 100) == 28


def test_a_list_of_rates_needs_one_for_each_layer(moment: Any) -> None:
    built = vitrim.SiT(keep_rate=(0.5, 0.25), layers=(2, 4)).build(spec_of(moment))
    assert built.stages() == (196, 98, 24)
    with pytest.raises(ValueError, match="2 reducing layers need 2 keep rates, not 3"):
        vitrim.SiT(keep_rate=(0.5, 0.25, 0.2), layers=(2, 4)).build(spec_of(moment))


def test_the_cheapest_member_of_a_cluster_becomes_its_medoid() -> None:
    x_BNC = torch.tensor([0.0, 1.0, 2.0, 10.0, 11.0, 20.0]).view(1, 6, 1)
    weight_BN = torch.tensor([[1.0, 3.0, 2.0, 5.0, 4.0, 1.0]])
    groups = medoids(x_BNC, 2, 3, weight_BN)  # starts at 3 and 4: then 0 to 3, and 4 and 5
    assert groups.centre.tolist() == [[0, 5]]
    assert groups.member.tolist() == [[1, 2, 3, 4]]
    assert groups.slot.tolist() == [[0, 0, 0, 1]]


def test_equal_patches_give_as_many_different_medoids() -> None:
    groups = medoids(torch.ones(1, 5, 3), 3, 2, None)
    assert len(set(groups.centre[0].tolist())) == 3


def test_medoids_alone_stay() -> None:
    model = vitrim.reduce_tokens(families.small_model("vit"), vitrim.KMedoids(keep_rate=0.25, layers=(2,)))
    with torch.no_grad(), vitrim.trace(model) as traced:
        model(families.small_images("vit"))
    assert (traced.layers[-1].source_BP >= 1).sum(dim=1).tolist() == [16, 16]


def test_the_attention_that_weighs_patches_is_that_of_the_block_before(moment: Any) -> None:
    with pytest.raises(ValueError, match="block 0 cannot reduce by the attention of the block before it"):
        vitrim.KMedoids(layers=(0, 6)).build(spec_of(moment))
    assert vitrim.KMedoids(layers=(0, 6), weighting="equal").build(spec_of(moment)).num_kept(0, 196) == 137


def test_a_learned_score_makes_a_patch_count_for_more() -> None:
    model = vitrim.reduce_tokens(families.small_model("vit"), vitrim.DPCKNN(keep_rate=0.5))
    images = families.small_images("vit")
    equal = vitrim.reduce_tokens(families.small_model("vit"), vitrim.DPCKNN(keep_rate=0.5, weighting="equal"))(images)
    assert torch.equal(model(images), equal)
    torch.nn.init.ones_(model.blocks[1].method.score.weight)
    assert not torch.allclose(model(images), equal)


def test_transport_scales_rows_and_columns() -> None:
    plan = transport(torch.randn(2, 5, 5, dtype=torch.float64), 200)
    assert (plan.sum(dim=1) - 1).abs().max() < 1e-9
    assert (plan.sum(dim=2) - 1).abs().max() < 1e-6


def test_a_trace_shows_each_patch_in_one_slot_and_no_slot_empty() -> None:
    weight_BKN = torch.tensor([[[0.9, 0.8, 0.7, 0.6], [0.1, 0.1, 0.1, 0.1], [0.0, 0.1, 0.2, 0.3]]])
    assert holders(weight_BKN).tolist() == [[0, 0, 2, 1]]
    tokens = to_slots(Tokens(torch.zeros(1, 5, 2), 1, traced=True), torch.zeros(1, 3, 2), weight_BKN)
    assert tokens.source_BP is not None
    assert tokens.weight_BP is not None
    assert tokens.source_BP.tolist() == [[1, 1, 3, 2]]
    torch.testing.assert_close(tokens.weight_BP, torch.tensor([[9 / 17, 8 / 17, 1.0, 1.0]]))


@pytest.mark.parametrize("method", SLOTS)
def test_slots_learn_and_fit_one_keep_rate(method: type[SlotMethod]) -> None:
    model = vitrim.reduce_tokens(families.small_model("vit"), method(keep_rate=0.5))
    model(families.small_images("vit")).square().sum().backward()
    learned = {name: weight for name, weight in model.named_parameters() if ".method." in name}
    assert {name.split(".")[1] for name in learned} == {"1", "2", "3"}
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in learned.values())
    model.blocks.set_method(model.blocks.method.at_keep_rate(0.6))
    with pytest.raises(ValueError, match=r"block 1 has 32 learned slots and needs 38: .* train the model"):
        model(families.small_images("vit"))


@pytest.mark.parametrize("method", SLOTS)
def test_a_checkpoint_without_slots_does_not_load(method: type[SlotMethod]) -> None:
    plain = copy.deepcopy(families.small_model("vit")).state_dict()
    model = vitrim.reduce_tokens(families.small_model("vit"), method(keep_rate=0.5))
    with pytest.raises(RuntimeError, match=r"blocks\.1\.method"):
        model.load_state_dict(plain)


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: vitrim.DPCKNN(neighbours=0), "neighbours is a whole number of at least 1, not 0"),
        (lambda: vitrim.DPCKNN(weighting="some"), "weighting must be one of learned, equal"),
        (lambda: vitrim.KMedoids(iterations=0), "iterations is a whole number of at least 1"),
        (lambda: vitrim.Sinkhorn(eps=0), "eps is a number above 0"),
        (lambda: vitrim.SiT(patches=0), "patches is a whole number of at least 1"),
        (lambda: vitrim.PatchMerger(keep_rate=1.5), "a keep rate must be above 0 and at most 1"),
    ],
)
def test_what_no_model_could_take_is_refused(make: Any, what: str) -> None:
    with pytest.raises(ValueError, match=what):
        make()
