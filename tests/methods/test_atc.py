"""ATC: clusters by hand, every linkage, what is too much."""

from __future__ import annotations

from typing import get_args

import pytest
import torch

import vitrim
from conformance import families
from vitrim.methods.atc import Linkage, agglomerate


@pytest.mark.parametrize(("linkage", "joined"), [("single", {1, 2, 3}), ("complete", {1, 2}), ("average", {1, 2})])
def test_a_chain_is_one_cluster_by_single_linkage_alone(linkage: Linkage, joined: set[int]) -> None:
    degrees = torch.tensor([200.0, 10.0, 20.0, 31.0, 60.0, 75.0])  # a chain of three, and two that are 15 apart
    metric_BPD = torch.stack([degrees.deg2rad().cos(), degrees.deg2rad().sin()], dim=1).unsqueeze(0)
    groups = agglomerate(metric_BPD, 4, linkage)
    first = int(groups.centre[0].tolist().index(1))
    members = {1} | {int(m) for m, s in zip(groups.member[0], groups.slot[0], strict=True) if s == first}
    assert members == joined


def test_equal_patches_join_from_the_lowest_index_on() -> None:
    groups = agglomerate(torch.ones(1, 5, 3), 2, "average")
    assert groups.centre.tolist() == [[0, 4]]
    assert (groups.member.tolist(), groups.slot.tolist()) == ([[1, 2, 3]], [[0, 0, 0]])


@pytest.mark.parametrize("linkage", get_args(Linkage))
def test_all_patches_but_one_can_go(linkage: Linkage) -> None:
    model = vitrim.reduce_tokens(families.small_model("vit"), vitrim.ATC(r=[63], linkage=linkage))
    with torch.no_grad(), vitrim.trace(model) as traced:
        model(families.small_images("vit"))
    assert traced.layers[-1].source_BP.eq(1).all()


def test_what_is_too_much_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"atc: r = 64 in block 0 is too large: 64 patches enter it and at most 63 can merge"
    ):
        vitrim.reduce_tokens(families.small_model("vit"), vitrim.ATC(r=[64]))
    with pytest.raises(ValueError, match="linkage must be one of single, complete, average"):
        vitrim.ATC(linkage="ward")  # type: ignore[arg-type]
