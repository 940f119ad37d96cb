"""PPT computes what the authors' code computes: which images merge and which drop, tokens, sizes, logits."""

from __future__ import annotations

import oracles
import pytest
import torch
from oracles import PPT, Oracle

import vitrim

CASES = ("r6_mixed", "r6_all_pooled", "r8_all_pruned", "every_block_r2_no_bias")


def method_of(oracle: Oracle) -> vitrim.PPT:
    settings = oracle.settings
    r, layers = settings["r"], settings["blocks"]
    return vitrim.PPT(r=r, layers=layers, threshold=settings["threshold"], prop_attn=settings["prop_attn"])


@pytest.mark.parametrize("name", CASES)
def test_choices_and_tokens_and_sizes_and_logits_equal(name: str) -> None:
    oracle = oracles.read(PPT, f"ppt_{name}")
    ours = oracles.run(oracles.reduced(oracle, method_of(oracle)), oracle["input"].double())
    assert ours.num_tokens() == oracle["output.num_tokens"].tolist()
    oracles.assert_logits_equal(ours.logits, oracle)
    oracles.assert_features_equal(ours, oracle)
    left_B = torch.full((3,), 36)
    for layer in oracle.layers("pooled"):
        tokens = ours.tokens[layer]
        assert tokens.source_BP is not None
        before_B, left_B = left_B, (tokens.source_BP >= 0).sum(dim=1)
        dropped_B = before_B > left_B
        assert (~dropped_B).tolist() == oracle[f"output.layer{layer}.pooled"].bool().tolist()
        if oracle.settings["prop_attn"]:
            assert tokens.size_BN is not None
            assert torch.equal(tokens.size_BN, oracle[f"output.layer{layer}.size"].double())


def test_the_scores_and_their_variances_equal() -> None:
    oracle = oracles.read(PPT, "ppt_r6_mixed")
    seen = []

    class Watched(vitrim.PPT):
        def scores(self, tokens, attention):  # type: ignore[no-untyped-def]
            seen.append(super().scores(tokens, attention))
            return seen[-1]

    settings = oracle.settings
    oracles.run(oracles.reduced(oracle, Watched(r=6, threshold=settings["threshold"])), oracle["input"].double())
    for score_BN, layer in zip(seen, (3, 6, 9), strict=True):
        wanted_BN = oracle[f"output.layer{layer}.scores"]
        torch.testing.assert_close(score_BN.sort().values.float(), wanted_BN.sort().values, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(score_BN.var(dim=1).float(), oracle[f"output.layer{layer}.variance"])
