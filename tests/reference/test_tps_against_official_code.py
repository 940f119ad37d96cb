"""TPS computes what the authors' code computes at inference: kept patches, merges, features, logits.

The numbers are not in this repository: without the shared folder these tests skip.
"""

from __future__ import annotations

import oracles
import pytest
import torch
from oracles import SHARED

import vitrim
from vitrim.core import ops
from vitrim.core.tokens import Tokens
from vitrim.methods.tps import squeeze

pytestmark = pytest.mark.skipif(
    not (SHARED / "tps_eval_0.7.safetensors").exists(),
    reason="the TPS oracles are not in this repository: set VITRIM_SHARED to the folder that has them",
)

LEARNED = {f"score_predictor.{stage}.": f"blocks.{3 * stage + 3}.method." for stage in range(3)}


@pytest.mark.parametrize("rate", [0.7, 0.5])
def test_kept_patches_features_and_logits_equal(rate: float) -> None:
    oracle = oracles.read(SHARED, f"tps_eval_{rate}")
    ours = oracles.run(oracles.reduced(oracle, vitrim.TPS(keep_rate=rate), LEARNED), oracle["input"].double())
    oracles.assert_logits_equal(ours.logits, oracle)
    assert ours.num_tokens() == oracle["output.num_tokens"].tolist()
    for layer in oracle.layers("tokens"):
        wanted_BNC = oracle[f"output.layer{layer}.tokens"].double()
        nearest_BN = torch.cdist(wanted_BNC, ours.features[layer]).argmin(dim=2)
        assert torch.equal(nearest_BN.sort(dim=1).values, torch.arange(wanted_BNC.shape[1]).expand_as(nearest_BN))
        error = (ops.take(ours.features[layer], nearest_BN) - wanted_BNC).abs().max() / wanted_BNC.abs().max()
        assert error < oracles.SINGLE


@pytest.mark.parametrize("name", ["tps_merge", "tps_merge_temperature_0.1"])
def test_one_merge_equals(name: str) -> None:
    oracle = oracles.read(SHARED, name)
    x_BNC = torch.cat([oracle["input.kept"], oracle["input.pruned"]], dim=1).double()
    keep_BK, rest_BM = (torch.arange(18).expand(2, -1)).split([11, 7], dim=1)
    out = squeeze(Tokens(x_BNC, 0, traced=True), keep_BK, rest_BM, oracle.settings["temperature"])
    assert (out.x_BNC - oracle["output64.kept"]).abs().max() <= oracles.EXACT
    assert out.source_BP is not None
    assert torch.equal(out.source_BP[:, 11:], oracle["output.target"].long())
