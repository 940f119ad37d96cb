"""Evo-ViT computes what the authors' DeiT computes: selected patches, features, logits of the patch mean.

The numbers are not in this repository: without the shared folder these tests skip.
"""

from __future__ import annotations

from typing import Any

import oracles
import pytest
import torch
from oracles import SHARED, Oracle
from timm.models.vision_transformer import VisionTransformer

import vitrim
from vitrim.core import ops

pytestmark = pytest.mark.skipif(
    not (SHARED / "evovit_stage.safetensors").exists(),
    reason="the Evo-ViT oracles are not in this repository: set VITRIM_SHARED to the folder that has them",
)

CASES: dict[str, dict[str, Any]] = {
    "evovit_stage": {},
    "evovit_stage_0.7_0.4": {"keep_rate": (0.7, 0.4)},
    "evovit_layerwise": {"layer_wise": True},
}


def model_of(oracle: Oracle, method: vitrim.Method) -> VisionTransformer:
    """As in the release: the head reads the norm of the mean of all patches."""
    model = (
        VisionTransformer(img_size=96, embed_dim=48, depth=12, num_heads=3, num_classes=10, global_pool="avg")
        .double()
        .eval()
    )
    training_only = ("norm_cls", "head_cls")
    weights = {key: value for key, value in oracle.weights().items() if not key.startswith(training_only)}
    model.load_state_dict(
        {key.replace("norm.", "fc_norm.") if key.startswith("norm.") else key: value for key, value in weights.items()}
    )
    return vitrim.reduce_tokens(model, method)


@pytest.mark.parametrize("name", CASES)
def test_selected_patches_features_and_logits_equal(name: str) -> None:
    oracle = oracles.read(SHARED, name)
    model = model_of(oracle, vitrim.EvoViT(fast_update=False, **CASES[name]))
    ours = oracles.run(model, oracle["input"].double())
    oracles.assert_logits_equal(ours.logits, oracle)
    for layer in oracle.layers("patches"):
        source_BP = ours.tokens[layer].source_BP
        assert source_BP is not None
        for source_P, wanted in zip(source_BP, oracle[f"output.layer{layer}.patches"].tolist(), strict=True):
            assert set((source_P >= 0).nonzero().flatten().tolist()) == set(wanted)
    for layer in oracle.layers("tokens"):
        wanted_BNC, got_BNC = oracle[f"output.layer{layer}.tokens"].double(), ours.tokens[layer].x_BNC
        nearest_BN = torch.cdist(wanted_BNC, got_BNC).argmin(dim=2)
        error = (ops.take(got_BNC, nearest_BN) - wanted_BNC).abs().max() / wanted_BNC.abs().max()
        assert error < oracles.SINGLE
