"""Numbers that the authors' own code computed, and the same model run through vitrim.

A file holds inputs, weights and outputs; most name a base file with the weights that they share.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

import vitrim
from vitrim.core.stack import Snapshot
from vitrim.core.tokens import Tokens

TESTS = Path(__file__).resolve().parents[1]
EVIT = TESTS / "data" / "evit"  # Apache-2.0, so in this repository
ADDED = METR, GTP, DTEM, PPT, TOFU = tuple(  # likewise; on top of a file in EVIT
    TESTS / "data" / name for name in ("metr", "gtp", "dtem", "ppt", "tofu")
)
VID_TLDR = TESTS / "data" / "vid_tldr"  # MIT
SHARED = Path(os.environ.get("VITRIM_SHARED", TESTS.parents[1] / "shared")) / "oracles"  # not ours to copy

EXACT = 1e-8  # float64 against float64
SINGLE = 1e-5  # our float64 against their float32: what float32 itself is off by, relative to the largest value


class Oracle(NamedTuple):
    """The tensors of one file on top of those of its base file, and the settings they were made with."""

    settings: dict[str, Any]
    tensors: dict[str, Tensor]

    def __getitem__(self, key: str) -> Tensor:
        return self.tensors[key]

    def weights(self) -> dict[str, Tensor]:
        """The state_dict, in float64."""
        return {key[8:]: value.double() for key, value in self.tensors.items() if key.startswith("weights.")}

    def layers(self, what: str) -> list[int]:
        """The blocks for which output.layerK.<what> was kept."""
        ends = (key.removeprefix("output.layer") for key in self.tensors if key.startswith("output.layer"))
        return sorted(int(end.split(".")[0]) for end in ends if end.endswith(f".{what}"))


def read(folder: Path, name: str) -> Oracle:
    """One file, its base included."""
    with safe_open(folder / f"{name}.safetensors", "pt") as file:
        metadata = file.metadata()
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no mapping
    if "base_file" in metadata:
        base = read(EVIT if folder in ADDED else folder, metadata["base_file"].removesuffix(".safetensors"))
        tensors = {**base.tensors, **tensors}
    return Oracle(json.loads(metadata["settings"]), tensors)


def model_of(oracle: Oracle, cls: type[VisionTransformer] = VisionTransformer, img_size: int = 96) -> VisionTransformer:
    """The model that the numbers come from, in float64."""
    model = cls(img_size=img_size, patch_size=16, embed_dim=48, depth=12, num_heads=3, num_classes=10).double().eval()
    model.load_state_dict(oracle.weights())
    return model


class Run(NamedTuple):
    """One forward of a reduced model: what every block let out."""

    logits: Tensor
    features: list[Tensor]  # [B, N, C] after each block
    tokens: dict[int, Tokens]  # with sources and sizes, after each block but the last, and wherever tokens went

    def num_tokens(self) -> list[int]:
        return [x.shape[1] for x in self.features]


@torch.no_grad()
def run(model: VisionTransformer, images: Tensor) -> Run:
    """The forward, listened to block by block."""
    features: list[Tensor] = []
    snapshots: list[Snapshot] = []
    handles = [block.register_forward_hook(lambda *call: features.append(call[-1])) for block in model.blocks]
    model.blocks.record_into(snapshots, every_block=True)
    logits = model(images)
    model.blocks.record_into(None)
    for handle in handles:
        handle.remove()
    return Run(logits, features, {snapshot.layer: snapshot.tokens for snapshot in snapshots})


def assert_features_equal(run: Run, oracle: Oracle) -> None:
    """The features that leave the blocks, in the same order."""
    layers = oracle.layers("tokens")
    assert layers
    for layer in layers:
        wanted, got = oracle[f"output.layer{layer}.tokens"], run.features[layer]
        assert got.shape == wanted.shape
        error = (got - wanted).abs().max() / wanted.abs().max()
        assert error < SINGLE, f"block {layer}: {error:.1e}"


def assert_logits_equal(logits: Tensor, oracle: Oracle) -> None:
    """The logits, in float64."""
    assert (logits - oracle["output64.logits"]).abs().max() <= EXACT


def reduced(
    oracle: Oracle, method: vitrim.Method, learned: Mapping[str, str] = MappingProxyType({}), **model: Any
) -> VisionTransformer:
    """The model of the oracle with that method at work. learned: parts of the official keys of weights, with ours."""
    official = [key for key in oracle.tensors if any(part in key for part in learned)]
    own = Oracle(oracle.settings, {key: value for key, value in oracle.tensors.items() if key not in official})
    made = vitrim.reduce_tokens(model_of(own, **model), method)
    weights = own.weights()
    for key in official:
        part = next(part for part in learned if part in key)
        weights[key.removeprefix("weights.").replace(part, learned[part])] = oracle[key].double()
    made.load_state_dict(weights)
    return made
