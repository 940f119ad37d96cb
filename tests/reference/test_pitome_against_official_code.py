"""PiToMe computes what the authors' code computes: energies, both matchings, groups, sizes, logits.

Their licence (CC-BY-NC 4.0) keeps the numbers out of this repository: without the shared folder these tests skip.
"""

from __future__ import annotations

import oracles
import pytest
import torch
from oracles import SHARED, Run

import vitrim
from vitrim.core import ops, portable
from vitrim.core.tokens import Tokens
from vitrim.methods.pitome import energies, pairs

pytestmark = pytest.mark.skipif(
    not (SHARED / "pitome_0.9.safetensors").exists(),
    reason="the PiToMe oracles (CC-BY-NC) are not in this repository: set VITRIM_SHARED to the folder that has them",
)


@pytest.mark.parametrize("ratio", [0.95, 0.9, 0.8])
def test_groups_and_sizes_and_logits_equal(ratio: float) -> None:
    oracle = oracles.read(SHARED, f"pitome_{ratio}")
    method = vitrim.PiToMe(ratio=ratio, prop_attn=False)
    ours = oracles.run(oracles.reduced(oracle, method), oracle["input"].double())
    oracles.assert_logits_equal(ours.logits, oracle)
    assert_groups_equal(ours, oracle)


def test_the_margins_fall_as_the_released_ones() -> None:
    oracle = oracles.read(SHARED, "pitome_0.9")
    assert oracles.reduced(oracle, vitrim.PiToMe()).blocks.method.margin == tuple(oracle.settings["margins"])


def test_mae_models_match_the_other_way_round_and_count_by_size() -> None:
    oracle = oracles.read(SHARED, "pitome_mae_0.9")
    method = vitrim.PiToMe(ratio=0.9, prop_attn=False, matching="protected_first")
    model = oracles.model_of(oracle)
    plain = oracles.run(vitrim.reduce_tokens(model, method), oracle["input"].double())
    assert_groups_equal(plain, oracle)
    last = plain.tokens[11]
    assert last.size_BN is not None
    size_BN1 = last.size_BN[:, 1:].unsqueeze(2)
    pooled_BC = (plain.features[11][:, 1:] * size_BN1).sum(dim=1) / 3  # not by the patches: a fault of theirs
    assert (model.head(model.norm(pooled_BC)) - oracle["output64.logits"]).abs().max() <= oracles.EXACT


def assert_groups_equal(ours: Run, oracle: oracles.Oracle) -> None:
    assert ours.num_tokens() == oracle["output.num_tokens"].tolist()
    source_BP = ours.tokens[11].source_BP
    assert source_BP is not None
    wanted_BP = oracle["output.source"][:, :, 1:].long().argmax(dim=1)
    assert torch.equal(source_BP, wanted_BP)
    for layer in oracle.layers("size"):
        size_BN = ours.tokens[layer].size_BN
        assert size_BN is not None
        assert torch.equal(size_BN, oracle[f"output.layer{layer}.size"].double())


@pytest.mark.parametrize(("name", "prefix"), [("merge", 1), ("merge_no_cls", 0)])
@pytest.mark.parametrize("kind", ["split", "protected"])
def test_one_merge_gives_the_same_energies_and_values(name: str, prefix: int, kind: str) -> None:
    oracle = oracles.read(SHARED, f"pitome_{name}")
    key_BND = oracle["input.metric"].double()[:, prefix:]
    energy_BN = energies(key_BND, oracle.settings["margin"])
    assert (energy_BN - oracle["output64.energy"]).abs().max() <= oracles.EXACT
    tokens = Tokens(oracle["input.x"].double(), prefix, oracle["input.size"].double().squeeze(-1), traced=True)
    found = pairs(key_BND, portable.order(energy_BN), oracle.settings["r"], protects=kind == "protected")
    out = ops.merge(tokens, *found, None)
    assert out.size_BN is not None
    assert (out.x_BNC - oracle[f"output64.{kind}.x"]).abs().max() <= oracles.EXACT
    assert (out.size_BN - oracle[f"output64.{kind}.size"].squeeze(-1)).abs().max() <= oracles.EXACT
