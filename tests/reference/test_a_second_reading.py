"""Each method at settings of its own, on weights and images of several seeds, against plain loops in NumPy."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import slow
import torch
from timm.models.vision_transformer import VisionTransformer

import vitrim

DEPTH = 4
COUNTS = ((24, 20, 15, 7), (22, 17, 11, 4))  # of 25 patches
CASES: dict[str, tuple[vitrim.Method, Callable[..., Any]]] = {
    "tome": (vitrim.ToMe(r=4), partial(slow.tome, r=4)),
    "ppt pools and drops": (
        vitrim.PPT(r=4, layers=(0, 1, 2, 3), threshold=6e-4),
        partial(slow.ppt, r=4, threshold=6e-4),
    ),
    "diffrate": (
        vitrim.DiffRate(pruned_to=COUNTS[0], merged_to=COUNTS[1]),
        lambda seen: slow.diffrate(seen, COUNTS[0][seen.layer], COUNTS[1][seen.layer]),
    ),
    "pitome": (vitrim.PiToMe(ratio=0.8), partial(slow.pitome, ratio=0.8, margin=0.75, split_first=True)),
    "pitome for MAE": (
        vitrim.PiToMe(ratio=0.72, margin=0.4, matching="protected_first"),
        partial(slow.pitome, ratio=0.72, margin=0.4, split_first=False),
    ),
    "atc single": (vitrim.ATC(r=4, linkage="single"), partial(slow.atc, r=4, linkage="single")),
    "atc complete": (vitrim.ATC(r=4, linkage="complete"), partial(slow.atc, r=4, linkage="complete")),
    "atc average": (vitrim.ATC(r=5, linkage="average"), partial(slow.atc, r=5, linkage="average")),
    "tofu": (vitrim.ToFu(r=4, merge_from=1), partial(slow.tofu, r=4, merge_from=1, kind="mean")),
    "tofu as released": (vitrim.ToFu(r=3, merge_from=2, norm="old"), partial(slow.tofu, r=3, merge_from=2, kind="old")),
    "gtp": (vitrim.GTP(r=4, alpha=0.3), partial(slow.gtp, r=4, graph="mixed", neighbours=8, alpha=0.3)),
    "gtp sparse": (
        vitrim.GTP(r=3, graph="semantic", neighbours=4, density=0.9),
        partial(slow.gtp, r=3, graph="semantic", neighbours=4, alpha=0.1),
    ),
    "vid_tldr": (vitrim.VidTLDR(r=4), partial(slow.vid_tldr, r=4)),
    "ltmp": (vitrim.LTMP(merge_threshold=0.4, prune_threshold=0.035), partial(slow.ltmp, merge=0.4, prune=0.035)),
    "merge_alike": (
        vitrim.MergeAlike(threshold=0.5, growth=0.2, least=0.3, by_size=2),
        partial(slow.merge_alike, threshold=0.5, growth=0.2, least=0.3, by_size=2),
    ),
}
NO_SIZES = ("tofu",)


def model_of(seed: int) -> Any:
    torch.manual_seed(seed)
    model = VisionTransformer(img_size=20, patch_size=4, embed_dim=24, depth=DEPTH, num_heads=3, num_classes=5)
    for name, weight in model.named_parameters():
        torch.nn.init.normal_(weight, mean=float("norm" in name and name.endswith("weight")), std=0.2)
    return model.double().eval()


def images_of(seed: int) -> torch.Tensor:
    return torch.randn(3, 3, 20, 20, generator=torch.Generator().manual_seed(seed)).double()


@pytest.mark.parametrize("seed", [11, 12])
@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_a_method_computes_what_its_equations_say(case: str, seed: int) -> None:
    method, step = CASES[case]
    model, images = model_of(seed), images_of(seed)
    plain, settings = model(images), {"prop_attn": method.name not in NO_SIZES}
    wanted = slow.forward(model, images, step, density=getattr(method, "density", 1.0), **settings)
    ours = vitrim.reduce_tokens(model, method)(images).numpy()
    assert np.abs(ours - wanted).max() < 1e-10
    assert np.abs(ours - plain.numpy()).max() > 1e-4


@torch.no_grad()
def test_dtem_with_a_metric_of_its_own_computes_what_its_equations_say() -> None:
    model, images = model_of(13), images_of(13)
    vitrim.reduce_tokens(model, vitrim.DTEM(r=4, metric_channels=6)).double()
    for block in model.blocks:
        torch.nn.init.normal_(block.weights.metric.weight)
        torch.nn.init.normal_(block.weights.metric.bias)
    weights = [(block.weights.metric.weight, block.weights.metric.bias) for block in model.blocks]
    wanted = slow.forward(vitrim.restore(model), images, partial(slow.dtem, r=4, weights=weights))
    again = vitrim.reduce_tokens(model, vitrim.DTEM(r=4, metric_channels=6)).double()
    for block, (weight, bias) in zip(again.blocks, weights, strict=True):
        block.weights.metric.weight.copy_(weight)
        block.weights.metric.bias.copy_(bias)
    assert np.abs(again(images).numpy() - wanted).max() < 1e-10


@torch.no_grad()
def test_representation_shift_keeps_what_the_mlp_changes_most() -> None:
    model, images = model_of(14), images_of(14)
    wanted = slow.forward(model, images, shift={1: 0.6, 2: 0.5})
    method = vitrim.EViT(fuse=False, scorer="shift", keep_rate=(0.6, 0.5), layers=(1, 2))
    assert np.abs(vitrim.reduce_tokens(model, method)(images).numpy() - wanted).max() < 1e-10
