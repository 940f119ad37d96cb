"""Reducing a model checks its blocks, wherever that is done and whatever users keep on them, and leaves no trace."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

import vitrim
from vitrim.core.self_check import bare_copy

IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def keep_activation(part: nn.Module) -> None:
    part.register_forward_hook(lambda module, _, out: setattr(module, "seen", out))


def hold_lock(part: nn.Module) -> None:
    part.lock = threading.Lock()  # type: ignore[assignment]


@pytest.mark.parametrize(
    "change",
    [
        lambda part: prune.l1_unstructured(part, "weight", 0.3),
        weight_norm,
        spectral_norm,
        parametrizations.weight_norm,
        parametrizations.spectral_norm,
        keep_activation,
        hold_lock,
    ],
    ids=["pruned", "weight_norm", "spectral_norm", "weight_norm_new", "spectral_norm_new", "activation", "lock"],
)
@pytest.mark.filterwarnings("ignore:.*deprecated:FutureWarning")
def test_what_cannot_be_copied_may_hang_on_a_block(
    tiny_vit: Callable[..., VisionTransformer], change: Callable[[Any], object]
) -> None:
    model = tiny_vit(depth=4).train()
    change(model.blocks[1].mlp.fc1)
    change(model.blocks[1].attn.qkv)
    model(IMAGES)
    model.eval()
    wanted, state = model(IMAGES), {key: value.clone() for key, value in model.state_dict().items()}
    kept = model.blocks[1].mlp.fc1.__dict__.get("seen")
    got = vitrim.reduce_tokens(model, "evit", keep_rate=1.0)(IMAGES)
    assert torch.equal(got, wanted)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert kept is None or kept is not model.blocks[1].mlp.fc1.seen  # of the forward; see the next test for the check


def test_the_check_calls_no_hook_and_draws_nothing(tiny_vit: Callable[..., VisionTransformer]) -> None:
    model = tiny_vit(depth=4, drop_path_rate=0.5).train()
    calls: list[int] = []
    model.blocks[1].norm1.register_forward_hook(lambda *_: calls.append(1))
    model.blocks[1].norm1.register_full_backward_pre_hook(lambda *_: calls.append(1))
    state = torch.get_rng_state()
    vitrim.reduce_tokens(model, "evit")
    assert calls == []
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_around_it_changes_nothing(tiny_vit: Callable[..., VisionTransformer], dtype: torch.dtype) -> None:
    model = tiny_vit(depth=4)
    with torch.autocast("cpu", dtype=dtype):
        vitrim.reduce_tokens(model, "evit")
    assert model(IMAGES).dtype == torch.float32


@pytest.mark.parametrize("context", [lambda: torch.device("meta"), torch.inference_mode], ids=["meta", "inference"])
@pytest.mark.parametrize("method", [vitrim.EViT(), vitrim.METR(method=vitrim.EViT())], ids=["evit", "metr"])
def test_default_devices_and_inference_mode_do_not_reach_what_is_made(
    tiny_vit: Callable[..., VisionTransformer],
    context: Callable[[], AbstractContextManager[Any]],
    method: vitrim.Method,
) -> None:
    model = tiny_vit(depth=4)
    with context():
        vitrim.reduce_tokens(model, method)
    assert not any(weight.is_inference() or weight.is_meta for weight in model.parameters())
    vitrim.ClassificationTask(model.train())(IMAGES, torch.tensor([0, 1])).loss.backward()
    assert all(weight.grad is not None for key, weight in model.named_parameters() if ".method." in key)


def test_a_copy_for_the_check_shares_no_tensor_and_keeps_shared_modules_shared() -> None:
    shared = nn.Linear(2, 2)
    module = nn.Sequential(shared, nn.BatchNorm1d(2), shared)
    copy: Any = bare_copy(module, torch.float64)
    assert copy[0] is copy[2]
    assert not copy[1].training
    pointers = {tensor.data_ptr() for tensor in module.state_dict().values()}
    for tensor in copy.state_dict().values():
        assert tensor.data_ptr() not in pointers
        assert tensor.dtype in (torch.float64, torch.long)
