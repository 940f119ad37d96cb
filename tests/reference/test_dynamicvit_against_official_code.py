"""DynamicViT computes what the authors' code computes: kept patches, logits, and the losses of one training step.

The numbers are not in this repository: without the shared folder these tests skip.
"""

from __future__ import annotations

from typing import Any

import oracles
import pytest
import torch
from oracles import SHARED
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

import vitrim
from vitrim.core import predicted
from vitrim.core.exits import divergence
from vitrim.core.tokens import Tokens
from vitrim.testing import leaving_blocks

pytestmark = pytest.mark.skipif(
    not (SHARED / "dynamicvit_eval_0.7.safetensors").exists(),
    reason="the DynamicViT oracles are not in this repository: set VITRIM_SHARED to the folder that has them",
)

LEARNED = {f"score_predictor.{stage}.": f"blocks.{3 * stage + 3}.method." for stage in range(3)}


def reduced(oracle: oracles.Oracle, method: vitrim.Method) -> VisionTransformer:
    model = VisionTransformer(img_size=112, patch_size=8, embed_dim=48, depth=12, num_heads=3, num_classes=10)
    vitrim.reduce_tokens(model.double().eval(), method)
    weights = oracle.weights()
    for part, ours in LEARNED.items():
        weights = {key.replace(part, ours): value for key, value in weights.items()}
    model.double().load_state_dict(weights)
    return model


@pytest.mark.parametrize("rate", [0.5, 0.7, 0.9])
def test_kept_patches_and_logits_equal(rate: float) -> None:
    oracle = oracles.read(SHARED, f"dynamicvit_eval_{rate}")
    model = reduced(oracle, vitrim.DynamicViT(keep_rate=rate))
    with torch.no_grad(), leaving_blocks(model, traced=True) as seen:
        logits = model(oracle["input"].double())
    oracles.assert_logits_equal(logits, oracle)
    before = seen[3].source_BP
    assert before is not None
    for source_P, theirs in zip(before, oracle["output.layer3.indices"].tolist(), strict=True):
        assert set((source_P >= 0).nonzero().flatten().tolist()) == set(theirs)


def test_one_training_step_gives_their_decisions_logits_ratio_loss_and_gradients(monkeypatch: Any) -> None:
    oracle = oracles.read(SHARED, "dynamicvit_train_0.7")
    noise = [oracle[f"input.layer{layer}.gumbel_noise"].double() for layer in (3, 6, 9)]

    def draw(log_probability_BP2: Tensor, live_BP: Tensor) -> Tensor:
        soft_BP = (log_probability_BP2 + noise.pop(0)).softmax(dim=2)[:, :, 0]
        return ((soft_BP > 0.5).double() - soft_BP.detach() + soft_BP) * live_BP

    monkeypatch.setattr(predicted, "draw", draw)
    monkeypatch.setattr(predicted, "fill_masked", lambda tokens: tokens)  # for heads that pool patches
    model = reduced(oracle, vitrim.DynamicViT(keep_rate=0.7, softmax_eps=1e-6)).train()
    outputs: list[Tokens] = []
    model.blocks.collect_outputs(outputs)
    features = model.forward_features(oracle["input"].double())
    logits = model.forward_head(features)
    assert (logits - oracle["output64.logits"]).abs().max() < oracles.SINGLE
    decisions = outputs[0].collected("dynamicvit")
    for layer, decision_BP in zip((3, 6, 9), decisions, strict=True):
        assert torch.equal(decision_BP.round().float(), oracle[f"output.layer{layer}.decision"].float())
    ratio = model.blocks.method.losses(decisions, logits, lambda x: x.sum())["ratio"]
    assert ratio.item() == pytest.approx(2 * oracle["loss64.ratio_sum"].item() / 3, abs=1e-6)
    kept = decisions[-1] > 0.5
    parts = [
        (-oracle["loss.soft_labels"].double() * logits.log_softmax(dim=1)).sum(dim=1).mean(),
        ratio,
        0.5 * divergence(logits, oracle["loss.teacher_logits"].double()),
        0.5 * (features[:, 1:][kept] - oracle["loss.teacher_tokens"].double()[kept]).square().mean(),
    ]
    total = torch.stack(parts).sum()
    assert total.item() == pytest.approx(oracle["loss64.total"].item(), rel=1e-5)
    total.backward()
    for layer, key in ((3, "in_conv.1.weight"), (9, "out_conv.4.weight")):
        wanted = oracle[f"grad64.score_predictor.{layer // 3 - 1}.{key}"]
        got = model.get_parameter(f"blocks.{layer}.method.{key}").grad
        assert got is not None
        assert (got - wanted).abs().max() <= 1e-4 * wanted.abs().max()
