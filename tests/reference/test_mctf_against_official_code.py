"""MCTF computes what the authors' code computes: pairs, merged maps, sizes, features, logits.

The numbers are not in this repository: without the shared folder these tests skip.
"""

from __future__ import annotations

import oracles
import pytest
import torch
from oracles import SHARED, Oracle

import vitrim
from vitrim.core import ops
from vitrim.core.tokens import Tokens
from vitrim.methods.mctf import Pairs, merged_map

pytestmark = pytest.mark.skipif(
    not (SHARED / "mctf_r2.safetensors").exists(),
    reason="the MCTF oracles are not in this repository: set VITRIM_SHARED to the folder that has them",
)

MODELS = {"mctf_r2": "reuse", "mctf_r3_two_passes": "exact", "mctf_r4_floor10": "reuse"}
MERGES = ("bidirectional", "first_layer", "odd_r", "one_way", "size_pooling")


@pytest.mark.parametrize("name", MODELS)
def test_logits_sizes_and_features_equal(name: str) -> None:
    oracle = oracles.read(SHARED, name)
    method = vitrim.MCTF(r=oracle.settings["r"], one_step_ahead=MODELS[name])  # type: ignore[arg-type]
    ours = oracles.run(oracles.reduced(oracle, method), oracle["input"].double())
    oracles.assert_logits_equal(ours.logits, oracle)
    assert ours.num_tokens() == oracle["output.num_tokens"].tolist()
    oracles.assert_features_equal(ours, oracle)
    size_BN = ours.tokens[11].size_BN
    assert size_BN is not None
    assert torch.equal(size_BN, oracle["output.size"].double())


@pytest.mark.parametrize("name", MERGES)
def test_one_merge_equals(name: str) -> None:
    oracle = oracles.read(SHARED, f"mctf_merge_{name}")
    tokens, weight_BN, pairs = merging(oracle)
    merged = ops.merge(tokens, *pairs, weight_BN[:, 1:])
    assert (merged.x_BNC - oracle["output64.x"]).abs().max() <= oracles.EXACT
    assert merged.size_BN is not None
    assert (merged.size_BN - oracle["output64.size"].squeeze(2)).abs().max() <= oracles.EXACT
    got = merged_map(oracle["input.attention"].double(), pairs, weight_BN, 1)
    assert (got - oracle["output64.attention"]).abs().max() <= oracles.EXACT


def merging(oracle: Oracle) -> tuple[Tokens, torch.Tensor, Pairs]:
    """The tokens, what each weighs, and who joins whom."""
    settings = oracle.settings
    pooling = "attention" if settings["pooling_type"] == 1 else "size"
    method = vitrim.MCTF(r=settings["r"], bidirectional=settings["bidirectional"], pooling=pooling)  # type: ignore[arg-type]
    size_BN = oracle["input.size"].double().squeeze(2) if "input.size" in oracle.tensors else None
    tokens = Tokens(oracle["input.x"].double(), 1, size_BN)
    tokens = tokens._replace(size_BN=ops.ones_like_size(tokens.x_BNC) if size_BN is None else size_BN)
    assert tokens.size_BN is not None
    received_BN = oracle["input.attention"].double().mean(dim=(1, 2))
    weight_BN = tokens.size_BN * (received_BN if pooling == "attention" else 1)
    return tokens, weight_BN, method.pairs(tokens, received_BN[:, 1:], settings["r"])
