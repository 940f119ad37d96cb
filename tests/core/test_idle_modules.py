"""Modules that do nothing are not called, and where no method is active its attention is freed."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

import vitrim
from vitrim.backbones.timm import PreNormReader
from vitrim.core.attention import Attention
from vitrim.core.block_reader import through
from vitrim.core.hooks import HOOKS


def test_modules_that_do_nothing_are_not_called_unless_somebody_looks() -> None:
    x, seen = torch.ones(3), []
    idle, watched, dropout = nn.Identity(), nn.Identity(), nn.Dropout(0.5).eval()
    idle.forward = dropout.forward = lambda _: pytest.fail("called")  # type: ignore[method-assign]
    watched.register_forward_hook(lambda *_: seen.append("hook"))
    assert through(x, idle, watched, dropout, nn.Linear(3, 3, bias=False)).shape == (3,)
    assert seen == ["hook"]
    assert through(torch.ones(1000), nn.Dropout(0.5).train()).eq(0).any()


def test_compiled_no_run_checks_for_hooks_of_modules_that_do_nothing(
    tiny_vit: Callable[..., VisionTransformer],
) -> None:
    guarded: list[str] = []

    def note(entries: Sequence[Any]) -> list[bool]:
        guarded.extend(entry.name for entry in entries if entry.guard_type != "EMPTY_NN_MODULE_HOOKS_DICT")  # unchecked
        return [True] * len(entries)

    model = vitrim.reduce_tokens(tiny_vit(depth=2), "evit", layers=(0,))
    compiled = torch.compile(model, fullgraph=True, options={"guard_filter_fn": note})
    with torch.no_grad():
        compiled(torch.randn(2, 3, 32, 32))
    assert any("blocks" in name for name in guarded)
    assert not [name for name in guarded if any(kind in name for kind in HOOKS) and "_global_" not in name]


def test_compiled_the_hooks_of_modules_that_do_nothing_run() -> None:
    watched = nn.Identity()
    watched.register_forward_hook(lambda *call: call[-1] + 1)
    compiled = torch.compile(through, backend="eager", fullgraph=True)
    assert compiled(torch.zeros(3), nn.Identity(), watched).eq(1).all()


def test_where_a_method_does_not_act_it_is_not_asked_and_the_attention_is_freed(
    tiny_vit: Callable[..., VisionTransformer], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    alive: list[bool] = []
    seen: list[weakref.ref[torch.Tensor]] = []
    after, output, add = vitrim.EViT.after_attention, Attention.output, PreNormReader.add_attention

    def output_seen(self: Attention, **how: Any) -> torch.Tensor:
        seen.append(weakref.ref(self.q_BHND))
        return output(self, **how)

    def add_seen(self: PreNormReader, *args: Any) -> torch.Tensor:
        alive.append(seen[-1]() is not None)
        return add(self, *args)

    monkeypatch.setattr(
        vitrim.EViT, "after_attention", lambda self, layer, *args: asked.append(layer) or after(self, layer, *args)
    )
    model = vitrim.reduce_tokens(tiny_vit(), "evit", keep_rate=0.5)
    monkeypatch.setattr(Attention, "output", output_seen)
    monkeypatch.setattr(PreNormReader, "add_attention", add_seen)
    with torch.no_grad():
        model(torch.randn(1, 3, 32, 32))
    assert asked == [3, 6, 9]
    assert [layer for layer in range(12) if alive[layer]] == [3, 6, 9]
