"""DTEM computes what OpenToMe's version of it computes: sizes, features, logits."""

from __future__ import annotations

import oracles
import pytest
from oracles import DTEM, Oracle

import vitrim

CASES = sorted(path.stem for path in DTEM.glob("*.safetensors"))
LEARNED = {"attn.qkv.metric_layer": "method.metric"}


def method_of(oracle: Oracle) -> vitrim.DTEM:
    r = oracle.settings["r"]
    r = (r[0], r[1]) if isinstance(r, list) else r
    return vitrim.DTEM(
        r=r, metric_channels=oracle.settings["feat_dim"], prop_attn=oracle.settings["prop_attn"], clamp=True
    )


def test_the_cases_in_this_repository_are_here() -> None:
    assert CASES == ["dtem_eval_decreasing", "dtem_eval_r3"]


@pytest.mark.parametrize("name", CASES)
def test_logits_sizes_and_features_equal(name: str) -> None:
    oracle = oracles.read(DTEM, name)
    ours = oracles.run(oracles.reduced(oracle, method_of(oracle), LEARNED), oracle["input"].double())
    assert ours.num_tokens() == oracle["output.num_tokens"].tolist()
    assert (ours.logits - oracle["reference64.logits"]).abs().max() <= oracles.EXACT
    assert (ours.logits - oracle["output64.logits"]).abs().max() <= 1e-6  # their softmax is float32
    oracles.assert_features_equal(ours, oracle)
    for layer in oracle.layers("size"):
        size_BN = ours.tokens[layer].size_BN
        assert size_BN is not None
        assert size_BN.equal(oracle[f"output.layer{layer}.size"].double())
