"""torch.jit.trace, on which older exporters and counters stand: every method of fixed counts, at any batch size."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from timm.models.eva import Eva

import vitrim
from every_method import FIXED, amount

SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, amount(name, per_block=5)) for name in FIXED},
    "evit, received": ("evit", {"scorer": "received"}),
    "bat, kmeans": ("beyond_attentive", {"inattentive": "kmeans"}),
    "bat, spatial": ("beyond_attentive", {"inattentive": "spatial", "normalize": False}),
    "bat, mlp": ("beyond_attentive", {"inattentive": "mlp"}),
}


@pytest.mark.parametrize("rope", ["cat", "mixed"])
def test_a_model_with_rotary_positions_is_traced_too(rope: str) -> None:
    settings = {"img_size": 32, "patch_size": 4, "embed_dim": 48, "depth": 2, "num_heads": 3, "rope_type": rope}
    model = vitrim.reduce_tokens(Eva(**settings, use_rot_pos_emb=True), "evit", layers=(0,)).eval()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(model, torch.randn(1, 3, 32, 32), check_trace=False)
        x_BCHW = torch.randn(3, 3, 32, 32)
        torch.testing.assert_close(traced(x_BCHW), model(x_BCHW), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("which", SETTINGS)
def test_a_traced_model_gives_the_models_numbers_at_other_batch_sizes(tiny_vit: Callable[..., Any], which: str) -> None:
    name, settings = SETTINGS[which]
    # vid-TLDR stretches small differences of entropies, which rounding to fp32 would change.
    kind = torch.float64 if name == "vid_tldr" else torch.float32
    model = vitrim.reduce_tokens(tiny_vit(depth=4).to(kind), name, **settings)
    torch.manual_seed(0)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # sizes become numbers: counts are fixed, and batches are not
        traced = torch.jit.trace(model, torch.randn(1, 3, 32, 32, dtype=kind), check_trace=False)
    x_BCHW = torch.randn(3, 3, 32, 32, dtype=kind)
    with torch.no_grad():
        torch.testing.assert_close(traced(x_BCHW), model(x_BCHW), atol=1e-6, rtol=1e-5)
