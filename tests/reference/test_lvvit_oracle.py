"""LV-ViT, MixToken, token labels and their loss compute what the authors' code computes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import oracles
import pytest
import torch
from oracles import SHARED, Oracle
from torch import Tensor

import vitrim
from token_labels import loss_of_output, mix_images, with_truth
from vitrim.core import ops
from vitrim.core.method import Method
from vitrim.core.tokens import Tokens
from vitrim.models.lvvit import LVViT
from vitrim.models.mix_token import box_around, box_mask, swap_box
from vitrim.train import token_labeling as tl

pytestmark = pytest.mark.skipif(
    not (SHARED / "lvvit_skip2.safetensors").exists(),
    reason="the LV-ViT oracles are not in this repository: set VITRIM_SHARED to the folder that has them",
)

EXACT = 1e-10  # float64 against float64
FLOAT32_SHARE = 1e-7  # the official ground_truth option computes its shares in float32 even in a float64 run
CASES = ("lvvit_skip1_qkv_bias", "lvvit_skip2")
GRID = (6, 6)


@pytest.fixture(params=CASES)
def oracle(request: pytest.FixtureRequest) -> Oracle:
    return oracles.read(SHARED, request.param)


def model_of(oracle: Oracle, **more: Any) -> LVViT:
    """The model that the numbers come from, in float64; all keys must fit."""
    names = ("img_size", "patch_size", "num_classes", "embed_dim", "depth", "num_heads", "mlp_ratio", "skip_lam")
    settings = {name: oracle.settings[name] for name in names}
    model = LVViT(**settings, qkv_bias=oracle.settings.get("qkv_bias", False), **more).double().eval()
    model.load_state_dict({key: value for key, value in oracle.weights().items() if "score_predictor" not in key})
    return model


def assert_equal(got: Tensor, wanted: Tensor, tolerance: float = EXACT) -> None:
    assert got.dtype == wanted.dtype == torch.float64
    assert got.shape == wanted.shape
    assert (got - wanted).abs().max() <= tolerance


@torch.no_grad()
def test_the_logits_are_equal(oracle: Oracle) -> None:
    model = model_of(oracle)
    assert_equal(model(oracle["input"].double()), oracle["output64.logits"])


@torch.no_grad()
def test_both_heads_and_the_features_are_equal(oracle: Oracle) -> None:
    model, images = model_of(oracle), oracle["input"].double()
    features = model.forward_features(images)
    for head, x, key in ((model.head, features[:, 0], "cls"), (model.aux_head, features[:, 1:], "aux")):
        wanted = oracle[f"output.{key}_logits"]
        assert (head(x) - wanted).abs().max() <= oracles.SINGLE * wanted.abs().max()
    run = oracles.run(vitrim.reduce_tokens(model, vitrim.EViT(keep_rate=1.0)), images)
    oracles.assert_features_equal(run, oracle)


def test_the_box_is_the_one_of_the_official_draws(oracle: Oracle) -> None:
    random = np.random.RandomState(oracle.settings["numpy_seed"])
    lam, row, column = random.beta(1.0, 1.0), random.randint(6), random.randint(6)
    assert lam == oracle["train.lam_drawn"].item()
    box = box_around(*(torch.tensor(float(value), dtype=torch.float64) for value in (lam, row, column)), GRID)
    assert box.tolist() == oracle["train.box"].tolist()


@torch.no_grad()
@pytest.mark.parametrize("batch_norm", [False, True])
def test_training_outputs_with_mixtoken_are_equal(oracle: Oracle, batch_norm: bool) -> None:
    model = model_of(oracle, return_dense=True).train()
    model.patch_embed.train(batch_norm)
    box = oracle["train.box"].long()
    cls, aux, given = model(oracle["input"].double(), box)
    key = "train_batchnorm64" if batch_norm else "train64"
    assert torch.equal(given, box)
    assert_equal(cls, oracle[f"{key}.cls_logits"])
    assert_equal(swap_box(aux, box_mask(box, GRID)), oracle[f"{key}.aux_logits"])


@pytest.mark.parametrize("weight", [0.5, 1.0])
@pytest.mark.parametrize("kind", ["dense_labels", "dense_no_mix", "image_labels"])
def test_the_loss_is_equal(oracle: Oracle, kind: str, weight: float) -> None:
    assert_equal(loss(oracle, kind, weight, truth=False), oracle[f"train64.loss_{kind}_dense{weight}_gt0"])


@pytest.mark.parametrize("kind", ["dense_labels", "dense_no_mix"])
def test_the_loss_that_asks_the_ground_truth_too_is_equal(oracle: Oracle, kind: str) -> None:
    assert_equal(loss(oracle, kind, 0.5, truth=True), oracle[f"train64.loss_{kind}_dense0.5_gt1"], FLOAT32_SHARE)
    assert (loss(oracle, kind, 0.5, truth=True) - loss(oracle, kind, 0.5, truth=False)).abs() > 1e-3


def loss(oracle: Oracle, kind: str, weight: float, *, truth: bool) -> Tensor:
    """Ours, from the official outputs; they are pasted back, ours are not."""
    box = torch.zeros(4, dtype=torch.long) if kind == "dense_no_mix" else oracle["train.box"].long()
    cls, aux = oracle["train64.cls_logits"], oracle["train64.aux_logits"]
    output = cls, swap_box(aux, box_mask(box, GRID)), box
    dense = oracle["train.target_dense"].double()
    target, patches = dense[:, :, 1], dense[:, :, 2:].transpose(1, 2)
    if kind == "image_labels":
        target = oracle["train.target"].double()
        patches = tl.repeated(target, 36)
    target = with_truth(target, dense[:, :, 0]) if truth else target
    return sum(loss_of_output(output, target, patches, GRID, dense_weight=weight).values()).unsqueeze(0)


@pytest.mark.parametrize("size", [6, 14])
@pytest.mark.parametrize(("lam", "smoothing"), [(1.0, 0.0), (0.7, 0.1)])
def test_targets_from_label_maps_are_equal(size: int, lam: float, smoothing: float) -> None:
    oracle = oracles.read(SHARED, "lvvit_token_label_targets")
    maps = torch.stack([oracle["input.scores"], oracle["input.classes"].float()], dim=1)
    targets = tl.label_map_targets(maps, oracle["input.boxes"], 20, (size, size), smoothing=smoothing)
    target, patches = (mix_images(target, lam) for target in targets)
    truth = mix_images(tl.image_targets(oracle["input.labels"], 20, smoothing), lam)
    wanted = oracle[f"output.size{size}_lam{lam}_smoothing{smoothing}"]
    torch.testing.assert_close(truth, wanted[:, :, 0], rtol=0, atol=1e-6)
    torch.testing.assert_close(target, wanted[:, :, 1], rtol=0, atol=1e-6)
    torch.testing.assert_close(patches.transpose(1, 2), wanted[:, :, 2:], rtol=0, atol=1e-6)


def test_targets_without_label_maps_are_equal() -> None:
    oracle = oracles.read(SHARED, "lvvit_token_label_targets")
    target = mix_images(tl.image_targets(oracle["input.labels"], 20, 0.1), 0.7)
    torch.testing.assert_close(target, oracle["output.plain_lam0.7_smoothing0.1"], rtol=0, atol=1e-6)


@dataclass(frozen=True)
class Recorded(Method):
    """Keeps the patches that DynamicViT's predictors chose in the official run."""

    name = "recorded"
    kept: tuple[tuple[int, Tensor], ...]

    def before_block(self, layer: int, tokens: Tokens) -> Tokens:
        return ops.keep(tokens, dict(self.kept)[layer]) if layer in dict(self.kept) else tokens


def test_with_fewer_tokens_features_and_logits_are_those_of_dynamicvit_on_lvvit() -> None:
    oracle = oracles.read(SHARED, "dynamicvit_lvvit_eval_0.7")
    kept = tuple((layer, oracle[f"output.layer{layer}.indices"].long()) for layer in oracle.settings["layers"])
    run = oracles.run(vitrim.reduce_tokens(model_of(oracle), Recorded(kept)), oracle["input"].double())
    assert run.num_tokens() == [37, 37, 26, 26, 18, 18, 13, 13]
    oracles.assert_features_equal(run, oracle)
    assert_equal(run.logits, oracle["output64.logits"])
