"""DiffRate computes what the authors' code computes: counts, who merges into whom, fractional sizes, logits.

Their code has no licence, which keeps the numbers out of this repository: without the shared folder these tests skip.
"""

from __future__ import annotations

import oracles
import pytest
import torch
from oracles import SHARED, Oracle
from torch import Tensor

import vitrim
from vitrim.core import ops
from vitrim.core.matching import cosines
from vitrim.core.tokens import Tokens

pytestmark = pytest.mark.skipif(
    not (SHARED / "diffrate_eval.safetensors").exists(),
    reason="the DiffRate oracles (no licence) are not in this repository: set VITRIM_SHARED to the folder with them",
)


def method_of(oracle: Oracle) -> vitrim.DiffRate:
    """The counts of the case, without the class token."""
    pruned, merged = ([count - 1 for count in oracle.settings[f"{what}_kept"]] for what in ("prune", "merge"))
    return vitrim.DiffRate(pruned_to=pruned, merged_to=merged)


def test_counts_and_groups_and_sizes_and_logits_equal() -> None:
    oracle = oracles.read(SHARED, "diffrate_eval")
    ours = oracles.run(oracles.reduced(oracle, method_of(oracle)), oracle["input"].double())
    assert ours.num_tokens() == oracle["output.num_tokens"].tolist()
    oracles.assert_logits_equal(ours.logits, oracle)
    for layer in oracle.layers("size"):
        size_BN = ours.tokens[layer].size_BN
        if size_BN is None:  # nothing merged yet
            size_BN = torch.ones(3, ours.features[layer].shape[1]).double()
        wanted_BN = oracle[f"output.layer{layer}.size"].double()
        torch.testing.assert_close(size_BN.sort().values, wanted_BN.sort().values, atol=oracles.SINGLE, rtol=0)
    source_BP = ours.tokens[11].source_BP
    assert source_BP is not None
    kept_BNP = oracle["output.source"][:, 1:, 1:] > 0  # the class token stands for itself
    for image in range(3):
        assert groups(source_BP[image]) == {frozenset(row.nonzero().flatten().tolist()) for row in kept_BNP[image]}


def groups(source_P: Tensor) -> set[frozenset[int]]:
    """The patches of each token that is left."""
    return {frozenset((source_P == token).nonzero().flatten().tolist()) for token in set(source_P.tolist()) - {-1}}


def test_counts_that_keep_all_give_the_models_own_logits() -> None:
    oracle = oracles.read(SHARED, "diffrate_no_reduction")
    model = oracles.model_of(oracle)
    plain = model(oracle["input"].double())
    assert torch.equal(vitrim.reduce_tokens(model, method_of(oracle))(oracle["input"].double()), plain)
    oracles.assert_logits_equal(plain, oracle)


def test_one_merge_gives_the_same_targets_and_means_and_sizes() -> None:
    oracle = oracles.read(SHARED, "diffrate_merge")
    x_BNC, size_BN = oracle["input.x"].double(), oracle["input.size"].double().squeeze(-1)
    kept = oracle.settings["kept"] - 1
    order_BN = torch.arange(x_BNC.shape[1] - 1).expand(len(x_BNC), -1)
    similarity_BM, slot_BM = cosines(x_BNC[:, 1 + kept :], x_BNC[:, 1 : 1 + kept]).max(dim=-1)
    assert torch.equal(slot_BM + 1, oracle["output.target"].long())
    assert (similarity_BM - oracle["output64.similarity"]).abs().max() <= oracles.EXACT
    growth_BM = similarity_BM * size_BN[:, 1 + kept :]
    ones_BN = torch.ones_like(size_BN[:, 1:])
    tokens = Tokens(x_BNC, 1, size_BN)
    out = ops.merge(tokens, order_BN[:, :kept], order_BN[:, kept:], slot_BM, ones_BN, growth_BM=growth_BM)
    assert out.size_BN is not None
    assert (out.x_BNC - oracle["output64.x"]).abs().max() <= oracles.EXACT
    assert (out.size_BN - oracle["output64.size"].squeeze(-1)).abs().max() <= oracles.EXACT
