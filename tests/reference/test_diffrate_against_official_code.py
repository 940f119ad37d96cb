"""DiffRate computes what the authors' code computes: counts, who merges into whom, fractional sizes, logits.

Their code has no licence, which keeps the numbers out of this repository: without the shared folder these tests skip.
"""

from __future__ import annotations

from typing import Any

import oracles
import pytest
import torch
from oracles import SHARED, Oracle
from torch import Tensor

import vitrim
from vitrim.core import ops
from vitrim.core.masking import straight_through
from vitrim.core.matching import cosines
from vitrim.core.tokens import Tokens
from vitrim.methods.diffrate.search import count

pytestmark = pytest.mark.skipif(
    not (SHARED / "diffrate_eval.safetensors").exists(),
    reason="the DiffRate oracles (no licence) are not in this repository: set VITRIM_SHARED to the folder with them",
)


STEPS = ("prune", "merge")
ALMOST = 1e-6  # the masked softmax of their search computes in float32


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


def test_a_learned_count_and_its_gradient_equal() -> None:
    oracle = oracles.read(SHARED, "diffrate_learned_counts")
    scores_P = oracle["input.selected_probability"].double().requires_grad_()
    chosen = count(scores_P)
    assert int(chosen.kept) + 1 == int(oracle["output.kept"])
    assert (chosen.stays_P - oracle["output.token_probability"][1:]).abs().max() < oracles.SINGLE
    kept, rank_P = chosen.kept.detach(), torch.arange(16)
    hard_P = 1.0 - ((rank_P >= kept) & (rank_P < 13)).double()
    mask_P = straight_through(hard_P, chosen.stays_P)
    assert torch.equal(mask_P.detach(), oracle["output.mask_from_14"][1:].double())
    ((mask_P * oracle["input.cotangent"][1:].double()).sum() + 3 * chosen.kept).backward()
    assert scores_P.grad is not None
    # the official mask lets the class token's probability, which is 1, have a gradient: a constant to the softmax
    assert (scores_P.grad - oracle["grad.selected_probability"]).abs().max() < oracles.SINGLE


@pytest.mark.parametrize("name", ["diffrate_search_step", "diffrate_search_step_flat"])
def test_a_step_of_the_search_gives_the_same_counts_and_loss_and_gradients(name: str) -> None:
    oracle = oracles.read(SHARED, name)
    model: Any = oracles.model_of(oracle).requires_grad_(False)
    channels, tokens = 48, 37
    outside = tokens * channels * 16 * 16 * 3 + channels * 10  # the official count of embedding and head
    blocks = 12 * (tokens * 12 * channels**2 + 2 * tokens**2 * channels)
    share = (oracle.settings["target_gflops"] * 1e9 - outside) / blocks
    vitrim.reduce_tokens(model, vitrim.DiffRate(target=share))
    rates = {layer: block.weights.double().train() for layer, block in enumerate(model.blocks) if block.weights}
    assert sorted(rates) == list(range(1, 12))  # the first block keeps all
    for layer, each in rates.items():
        each.load_state_dict({f"{what}_scores": oracle[f"input.layer{layer}.{what}_scores"] for what in STEPS})
    task = vitrim.ClassificationTask(model)
    losses = task(oracle["input"].double(), oracle["input.labels"].long())
    losses.loss.backward()
    assert (losses.logits_BK - oracle["output64.logits"]).abs().max() < ALMOST
    assert abs(float(losses.loss.detach()) - float(oracle["output64.loss"])) < ALMOST
    for layer, each in rates.items():
        for what, weight in zip(STEPS, (each.prune_scores, each.merge_scores), strict=True):
            wanted = oracle[f"grad64.layer{layer}.{what}_scores"]
            assert (weight.grad - wanted).abs().max() <= 1e-5 * wanted.abs().max() + 1e-12, (layer, what)
    settled: Any = model.blocks.method.settled([block.weights for block in model.blocks])
    official = [(oracle[f"output.{what}_kept"] - 1).tolist() for what in STEPS]
    least = 36
    for layer, (pruned, merged) in enumerate(zip(*official, strict=True)):
        assert settled.pruned_to[layer] == min(least, pruned)
        least = min(least, pruned, merged)
        assert settled.merged_to[layer] == least
