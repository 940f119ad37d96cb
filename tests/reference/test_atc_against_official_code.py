"""ATC computes what the authors' code computes: clusters, sizes, features, logits.

The numbers are not in this repository: without the shared folder these tests skip.
"""

from __future__ import annotations

from typing import get_args

import oracles
import pytest
import torch
from oracles import SHARED, Oracle
from torch import Tensor

import vitrim
from vitrim.core import ops
from vitrim.core.tokens import Tokens
from vitrim.methods.atc import Linkage, agglomerate

pytestmark = pytest.mark.skipif(
    not (SHARED / "atc_clustering.safetensors").exists(),
    reason="the ATC oracles are not in this repository: set VITRIM_SHARED to the folder that has them",
)

FINE_TUNED = ("average_0.7", "complete_0.5", "single_0.7")
OFF_THE_SHELF = ("off_the_shelf_r3", "off_the_shelf_decreasing")


def method_of(oracle: Oracle) -> vitrim.ATC:
    """As a user writes it. Off the shelf, the official code removes one patch fewer than it is told."""
    counts = [37, *oracle["output.num_tokens"].tolist()]
    removed = [before - after for before, after in zip(counts, counts[1:], strict=False)]
    if "r" in oracle.settings:
        assert removed == [max(r - 1, 0) for r in oracle["output.r"].tolist()]
    else:
        assert [36 - sum(removed[: block + 1]) for block in oracle.settings["blocks"]] == oracle.settings["clusters"]
    return vitrim.ATC(r=removed, linkage=oracle.settings["linkage"])


def groups_of(index_N: Tensor) -> list[frozenset[int]]:
    """The partition that a number for each token stands for."""
    return sorted(
        (frozenset((index_N == value).nonzero().flatten().tolist()) for value in index_N.unique()), key=lambda g: min(g)
    )


@pytest.mark.parametrize("name", [*FINE_TUNED, *OFF_THE_SHELF])
def test_logits_sizes_and_features_equal(name: str) -> None:
    oracle = oracles.read(SHARED, f"atc_{name}")
    ours = oracles.run(oracles.reduced(oracle, method_of(oracle)), oracle["input"].double())
    oracles.assert_logits_equal(ours.logits, oracle)
    assert ours.num_tokens() == oracle["output.num_tokens"].tolist()
    for layer in oracle.layers("size"):
        size_BN, wanted_BN = ours.tokens[layer].size_BN, oracle[f"output.layer{layer}.size"]
        assert size_BN is not None
        assert torch.equal(size_BN.sort(dim=1).values, wanted_BN.double().sort(dim=1).values)
    for layer in oracle.layers("tokens"):  # in whatever order the clusters are
        wanted_BNC, got_BNC = oracle[f"output.layer{layer}.tokens"].double(), ours.features[layer]
        nearest_BN = torch.cdist(wanted_BNC, got_BNC).argmin(dim=2)
        assert torch.equal(nearest_BN.sort(dim=1).values, torch.arange(wanted_BNC.shape[1]).expand_as(nearest_BN))
        error = (ops.take(got_BNC, nearest_BN) - wanted_BNC).abs().max() / wanted_BNC.abs().max()
        assert error < oracles.SINGLE, f"block {layer}: {error:.1e}"


@pytest.mark.parametrize("name", FINE_TUNED)
def test_the_first_clusters_hold_the_same_patches(name: str) -> None:
    oracle = oracles.read(SHARED, f"atc_{name}")
    ours = oracles.run(oracles.reduced(oracle, method_of(oracle)), oracle["input"].double())
    source_BP = ours.tokens[3].source_BP
    assert source_BP is not None
    for ours_P, theirs_N in zip(source_BP, oracle["output.layer3.clusters"], strict=True):
        assert groups_of(ours_P) == groups_of(theirs_N[1:])


@pytest.mark.parametrize("linkage", get_args(Linkage))
def test_one_clustering_equals(linkage: Linkage) -> None:
    oracle = oracles.read(SHARED, "atc_clustering")
    groups = agglomerate(oracle["input.metric"].double()[:, 1:], oracle.settings["clusters"], linkage)
    tokens = Tokens(oracle["input.x"].double(), 1, oracle["input.size"].double().squeeze(-1), traced=True)
    out = ops.merge(tokens, groups.centre, groups.member, groups.slot, None)
    assert out.source_BP is not None
    assert out.size_BN is not None
    for image, clusters_N in enumerate(oracle[f"output.{linkage}.clusters"]):
        assert groups_of(out.source_BP[image]) == groups_of(clusters_N[1:])
        theirs = [int(clusters_N[1:][out.source_BP[image] == token][0]) for token in range(1, 8)]
        wanted = oracle[f"output.{linkage}.x"][image][theirs].double()
        assert (out.x_BNC[image, 1:] - wanted).abs().max() <= oracles.SINGLE
        assert torch.equal(out.size_BN[image, 1:], oracle[f"output.{linkage}.size"][image][theirs].double())
