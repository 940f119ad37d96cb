"""LTMP computes what the authors' code computes in inference: counts, sizes, features, logits of every image.

Their code has no licence, which keeps the numbers out of this repository: without the shared folder these tests skip.
"""

from __future__ import annotations

import oracles
import pytest
import torch
from oracles import SHARED, Oracle
from timm.models.vision_transformer import VisionTransformer

import vitrim
import vitrim.testing

pytestmark = pytest.mark.skipif(
    not (SHARED / "ltmp_merge_prune.safetensors").exists(),
    reason="the LTMP oracles are not in this repository: set VITRIM_SHARED to the folder that has them",
)

CASES = ("merge_only", "merge_prune", "prune_only")
LEARNED = {"merge_masker.threshold": "method.merge_threshold", "prune_masker.threshold": "method.prune_threshold"}


def reduced(oracle: Oracle) -> VisionTransformer:
    """With thresholds that come from the weights, not from the settings."""
    return oracles.reduced(oracle, vitrim.LTMP(merge_threshold=0.5, prune_threshold=0.1), LEARNED)


@pytest.mark.parametrize("name", CASES)
def test_a_batch_gives_the_counts_and_logits_that_the_official_code_gives_image_by_image(name: str) -> None:
    oracle = oracles.read(SHARED, f"ltmp_{name}")
    model = reduced(oracle)
    with torch.no_grad(), vitrim.testing.leaving_blocks(model) as seen:
        logits = model(oracle["input"].double())
    oracles.assert_logits_equal(logits, oracle)
    assert torch.tensor([tokens.num_tokens_B for tokens in seen]).T.tolist() == oracle["output.num_tokens"].tolist()


@pytest.mark.parametrize("name", CASES)
def test_features_and_sizes_of_each_image_equal(name: str) -> None:
    oracle = oracles.read(SHARED, f"ltmp_{name}")
    model = reduced(oracle)
    for image in range(3):
        ours = oracles.run(model, oracle["input"].double()[image : image + 1])
        own = {
            key.replace(f"image{image}.", ""): value.unsqueeze(0)
            for key, value in oracle.tensors.items()
            if key.startswith(f"output.image{image}.")
        }
        alone = Oracle(oracle.settings, own)
        oracles.assert_features_equal(ours, alone)
        for layer in alone.layers("size"):
            size_BN = ours.tokens[layer].size_BN
            assert size_BN is not None
            assert size_BN.equal(alone[f"output.layer{layer}.size"].double().view_as(size_BN))
