"""GTP-ViT computes what the authors' code computes: graph, kept patches, sizes, features, logits."""

from __future__ import annotations

import oracles
import pytest
import torch
from oracles import GTP, Oracle

import vitrim
from vitrim.testing import leaving_blocks

CASES = sorted(path.stem for path in GTP.glob("*.safetensors"))
each_case = pytest.mark.parametrize("name", CASES)


def method_of(oracle: Oracle) -> vitrim.GTP:
    settings = oracle.settings
    return vitrim.GTP(
        r=settings["num_prop"],
        graph=settings["graph_type"].lower(),
        neighbours=settings["num_neighbours"],
        alpha=settings["alpha"] if settings["propagation"] == "GraphProp" else 0,
        density=settings["sparsity"],
        score={"MixedAttnMax": "mixed", "CLSAttnMean": "cls"}[settings["selection"]],
        prop_attn=settings["token_scale"],
    )


def test_the_cases_in_this_repository_are_here() -> None:
    assert CASES == ["gtp_mixed_p2", "gtp_prune_only", "gtp_semantic_no_scale", "gtp_spatial_p1_dense"]


@each_case
def test_logits_features_sizes_and_counts_equal(name: str) -> None:
    oracle = oracles.read(GTP, name)
    ours = oracles.run(oracles.reduced(oracle, method_of(oracle)), oracle["input"].double())
    oracles.assert_logits_equal(ours.logits, oracle)
    assert ours.num_tokens() == oracle["output.num_tokens"].tolist()
    oracles.assert_features_equal(ours, oracle)
    for layer in oracle.layers("size"):
        size_BN = ours.tokens[layer].size_BN
        assert size_BN is not None
        assert (size_BN - oracle[f"output.layer{layer}.size"]).abs().max() <= oracles.SINGLE


@each_case
def test_the_same_patches_go_in_every_block(name: str) -> None:
    oracle = oracles.read(GTP, name)
    ours = oracles.run(oracles.reduced(oracle, method_of(oracle)), oracle["input"].double())
    place_BK = torch.arange(36).expand(3, -1)
    for layer in oracle.layers("indices"):
        place_BK = place_BK.gather(1, oracle[f"output.layer{layer}.indices"].long())
        source_BP = ours.tokens[layer].source_BP
        assert source_BP is not None
        assert torch.equal(source_BP.gather(1, place_BK), torch.arange(1, place_BK.shape[1] + 1).expand(3, -1))
        assert int((source_BP >= 0).sum()) == place_BK.numel()


@pytest.mark.parametrize("name", [name for name in CASES if name != "gtp_prune_only"])
def test_the_graph_equals(name: str) -> None:
    oracle = oracles.read(GTP, name)
    with torch.no_grad(), leaving_blocks(model := oracles.reduced(oracle, method_of(oracle))) as seen:
        model(oracle["input"].double())
    graph_BPP, place_BK = seen[-1].memory
    assert (graph_BPP - oracle["output.graph"]).abs().max() <= oracles.SINGLE
    assert place_BK.shape[1] == seen[-1].num_patches
