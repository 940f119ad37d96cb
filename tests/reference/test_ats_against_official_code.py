"""ATS computes what the authors' code computes for an image alone: patches, counts, logits.

In a batch the official result depends on the other images. The masked softmax of that code runs in float32, so logits
compare at that precision. The numbers are not in this repository: without the shared folder these tests skip.
"""

from __future__ import annotations

import oracles
import pytest
import torch
from oracles import SHARED
from torch import Tensor

import vitrim
from vitrim.methods.ats import sampled
from vitrim.testing import leaving_blocks

pytestmark = pytest.mark.skipif(
    not (SHARED / "ats_sampling_37.safetensors").exists(),
    reason="the ATS oracles are not in this repository: set VITRIM_SHARED to the folder that has them",
)

MODELS = ("block_3_6_9", "blocks_3_to_11")


@pytest.mark.parametrize("name", MODELS)
def test_a_batch_gives_what_the_official_code_gives_image_by_image(name: str) -> None:
    oracle = oracles.read(SHARED, f"ats_{name}")
    model = oracles.reduced(oracle, vitrim.ATS(layers=oracle.settings["ats_blocks"]))
    with torch.no_grad(), leaving_blocks(model, traced=True) as seen:
        logits = model(oracle["input"].double())
    assert (logits - oracle["alone64.logits"]).abs().max() <= oracles.SINGLE
    for layer in sorted(
        int(key.split(".")[1][5:]) for key in oracle.tensors if key.endswith("num_tokens") and key[:5] == "alone"
    ):
        source_BP = seen[layer].source_BP
        assert source_BP is not None
        assert list(seen[layer].num_tokens_B) == oracle[f"alone.layer{layer}.num_tokens"].tolist()
        for source_P, theirs in zip(source_BP, oracle[f"alone.layer{layer}.patches"].tolist(), strict=True):
            assert set((source_P >= 0).nonzero().flatten().tolist()) == set(theirs) - {-1}


@pytest.mark.parametrize("name", ["37", "25_of_37"])
def test_one_sampling_draws_the_same_tokens(name: str) -> None:
    oracle = oracles.read(SHARED, f"ats_sampling_{name}")
    score_BN = scores(oracle["input.attention"].double(), oracle["input.values"].double())
    drawn_BN = sampled(score_BN, torch.ones_like(score_BN, dtype=torch.bool), oracle.settings["n_ref_tokens"] - 1)
    for drawn_N, ids in zip(drawn_BN, oracle["output.ids"].tolist(), strict=True):
        assert set((drawn_N.nonzero().flatten() + 1).tolist()) == set(ids) - {-1, 0}


def scores(attention_BHNN: Tensor, value_BHND: Tensor) -> Tensor:
    norm_BN = value_BHND.transpose(1, 2).flatten(2).norm(dim=2)
    score_BN = (attention_BHNN[:, :, 0].sum(dim=1) * norm_BN)[:, 1:]
    return score_BN / score_BN.sum(dim=1, keepdim=True)
