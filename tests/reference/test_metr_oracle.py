"""METR computes what the authors' code computes: logits, exit logits, features, kept patches."""

from __future__ import annotations

from pathlib import Path

import oracles
import pytest
import torch
from oracles import METR, SHARED, Oracle
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

import vitrim
from vitrim.core.tokens import Tokens

HERE = ["metr_exits_2_5_8_11", "metr_token_list"]
CASES = [*((METR, name) for name in HERE), *((SHARED, name) for name in ("metr_fused_0.5", "metr_fused_0.7"))]
each_case = pytest.mark.parametrize(("folder", "name"), CASES, ids=[name for _, name in CASES])


def read(folder: Path, name: str) -> Oracle:
    if not (folder / f"{name}.safetensors").exists():
        pytest.skip(f"needs {name}.safetensors of the shared oracles (VITRIM_SHARED): not at {folder}")
    return oracles.read(folder, name)


def model_of(oracle: Oracle) -> VisionTransformer:
    """The reduced model with the oracle's heads."""
    settings, weights = oracle.settings, oracle.weights()
    layers = [layer for layer, rate in enumerate(settings["keep_rates"]) if rate < 1]
    evit = vitrim.EViT(
        keep_rate=[settings["keep_rates"][layer] for layer in layers], layers=layers, tokens=settings["tokens"]
    )
    heads = {key: weights.pop(key) for key in list(weights) if key.startswith("mid_heads.")}
    model = VisionTransformer(img_size=96, patch_size=16, embed_dim=48, depth=12, num_heads=3, num_classes=10)
    vitrim.reduce_tokens(model.double().eval(), vitrim.METR(method=evit, exits=settings["exit_layers"]))
    for key, value in heads.items():
        _, layer, rest = key.split(".", 2)
        weights[f"blocks.{layer}.method.exit.{rest}"] = value
    model.load_state_dict(weights)
    return model


def test_the_cases_in_this_repository_are_here() -> None:
    assert sorted(path.stem for path in METR.glob("*.safetensors")) == HERE


@each_case
def test_logits_features_and_counts_equal(folder: Path, name: str) -> None:
    oracle = read(folder, name)
    ours = oracles.run(model_of(oracle), oracle["input"].double())
    oracles.assert_logits_equal(ours.logits, oracle)
    assert ours.num_tokens() == oracle["output.num_tokens"].tolist()
    oracles.assert_features_equal(ours, oracle)


@each_case
def test_the_exits_say_the_same(folder: Path, name: str) -> None:
    oracle = read(folder, name)
    model, outputs = model_of(oracle), list[Tokens]()
    model.blocks.collect_outputs(outputs)
    with torch.no_grad():
        oracles.assert_logits_equal(model(oracle["input"].double()), oracle)
    exits = oracle.settings["exit_layers"]
    aux = outputs[0].collected("metr")
    assert len(aux) == len(exits)
    for layer, exit_BK in zip(exits, aux, strict=True):
        assert (exit_BK - oracle[f"output64.layer{layer}.exit_logits"]).abs().max() <= oracles.EXACT


@each_case
def test_the_same_patches_are_kept_in_the_same_order(folder: Path, name: str) -> None:
    oracle = read(folder, name)
    ours = oracles.run(model_of(oracle), oracle["input"].double())
    layers = oracle.layers("patches")
    assert layers
    for layer in layers:
        source_BP = ours.tokens[layer].source_BP
        assert source_BP is not None
        assert_kept(source_BP, oracle[f"output.layer{layer}.patches"].long())


def assert_kept(source_BP: Tensor, patches_BK: Tensor) -> None:
    """Each kept patch is the token at its place; -1 in patches_BK is a token fused earlier."""
    for source_P, patches_K in zip(source_BP, patches_BK, strict=True):
        whole = patches_K >= 0
        assert torch.equal(source_P[patches_K[whole]], torch.arange(1, len(patches_K) + 1)[whole])
        assert not torch.isin(source_P, source_P[patches_K[whole]]).sum() > whole.sum()  # and it is alone there
