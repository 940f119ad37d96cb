"""EViT computes what the authors' code computes: logits, features, kept patches, gradients."""

from __future__ import annotations

import oracles
import pytest
import torch
import torch.nn.functional as F
from oracles import EVIT, Oracle
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

import vitrim

CASES = sorted(path.stem for path in EVIT.glob("evit_*.safetensors") if "gradients" not in path.stem)
GRADIENTS = sorted(path.stem for path in EVIT.glob("evit_gradients_*.safetensors"))


def method_of(oracle: Oracle) -> vitrim.EViT:
    settings = oracle.settings
    layers = [layer for layer, rate in enumerate(settings["keep_rates"]) if rate < 1]
    rate = settings.get("keep_rate_argument") or [settings["keep_rates"][layer] for layer in layers]
    return vitrim.EViT(keep_rate=rate, layers=layers, tokens=settings.get("tokens"), fuse=settings["fuse_token"])


def model_of(oracle: Oracle) -> VisionTransformer:
    """The model at the resolution of the case, position embedding resized as the case's notes say."""
    size = oracle.settings["img_size"]
    if size == 96:
        return oracles.model_of(oracle)
    prefix, grid = oracle["weights.pos_embed"].double().split([1, 36], dim=1)
    side = size // 16
    grid = F.interpolate(grid.view(1, 6, 6, -1).permute(0, 3, 1, 2), (side, side), mode="bicubic", align_corners=False)
    oracle.tensors["weights.pos_embed"] = torch.cat([prefix, grid.flatten(2).transpose(1, 2)], dim=1)
    return oracles.model_of(oracle, img_size=size)


def run(name: str) -> tuple[Oracle, oracles.Run]:
    oracle = oracles.read(EVIT, name)
    model = vitrim.reduce_tokens(model_of(oracle), method_of(oracle))
    return oracle, oracles.run(model, oracle["input"].double())


def test_all_cases_are_here() -> None:
    assert (len(CASES), len(GRADIENTS)) == (14, 2)


@pytest.mark.parametrize("name", CASES)
def test_logits_and_features_and_counts_equal(name: str) -> None:
    oracle, ours = run(name)
    oracles.assert_logits_equal(ours.logits, oracle)
    assert ours.num_tokens() == oracle["output.num_tokens"].tolist()
    if "no_op" not in name:
        oracles.assert_features_equal(ours, oracle)


@pytest.mark.parametrize("name", [name for name in CASES if "no_op" not in name])
def test_the_same_patches_are_kept_in_the_same_order(name: str) -> None:
    oracle, ours = run(name)
    layers = oracle.layers("patches")
    assert layers
    for layer in layers:
        source_BP = ours.tokens[layer].source_BP
        assert source_BP is not None
        assert_holders(source_BP, oracle[f"output.layer{layer}.patches"].long(), oracle.settings["fuse_token"])


def assert_holders(source_BP: Tensor, patches_BK: Tensor, fused: bool) -> None:
    """Every patch lies in the token that the official code keeps it in; the rest in a fused token, or nowhere."""
    position_BK = torch.arange(1, patches_BK.shape[1] + 1).expand_as(patches_BK)
    for source_P, patches_K, position_K in zip(source_BP, patches_BK, position_BK, strict=True):
        whole = patches_K >= 0
        assert torch.equal(source_P[patches_K[whole]], position_K[whole])
        others = torch.ones_like(source_P, dtype=torch.bool).index_fill(0, patches_K[whole], False)
        wanted = {*position_K[~whole].tolist(), patches_K.numel() + 1} if fused else {-1}
        assert set(source_P[others].tolist()) == wanted


def test_a_rate_that_keeps_all_patches_is_the_plain_model() -> None:
    oracle = oracles.read(EVIT, "evit_fused_no_op_0.98")
    plain = oracles.model_of(oracle)
    images = oracle["input"].double()
    wanted = plain(images)
    assert torch.equal(vitrim.reduce_tokens(plain, method_of(oracle))(images), wanted)


def test_the_plain_model_equals_the_official_plain_model() -> None:
    oracle = oracles.read(EVIT, "vit_96")
    oracles.assert_logits_equal(oracles.model_of(oracle)(oracle["input"].double()), oracle)


def test_asking_for_more_patches_than_there_are_is_an_error() -> None:
    oracle = oracles.read(EVIT, "evit_fused_token_list")
    counts = [36, 34, 36, *oracle.settings["tokens"][3:]]  # block 2 gets 35: 34 and the fused token
    with pytest.raises(ValueError, match=r"block 2 .*36 patches.* 35 "):
        oracles.reduced(oracle, vitrim.EViT(tokens=counts))


@pytest.mark.parametrize("name", GRADIENTS)
def test_gradients_equal(name: str) -> None:
    oracle = oracles.read(EVIT, name)
    model = vitrim.reduce_tokens(oracles.model_of(oracle), method_of(oracle)).train()
    logits = model(oracle["input"].double())
    loss = -(oracle["input.soft_labels"].double() * logits.log_softmax(dim=1)).sum(dim=1).mean()
    loss.backward()
    oracles.assert_logits_equal(logits, oracle)
    assert (loss - oracle["output64.loss"]).abs().max() <= oracles.EXACT
    gradients = {key: parameter.grad for key, parameter in model.named_parameters()}
    compared = [key.removeprefix("grad64.") for key in oracle.tensors if key.startswith("grad64.")]
    assert len(compared) == 10
    for key in compared:
        gradient = gradients[key]
        assert gradient is not None
        assert (gradient - oracle[f"grad64.{key}"]).abs().max() <= oracles.EXACT, key
    norms = torch.stack([gradient.norm() for gradient in gradients.values() if gradient is not None])
    assert (norms - oracle["gradnorm64.all"]).abs().max() <= oracles.EXACT
