"""Hooks on a reduced model's blocks, attentions and list of blocks run, and see features as the library's own would."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

import vitrim
from conformance import families
from conformance import other_libraries as others
from library_models import images, output, stack_of
from vitrim.backbones.reader import read_backbone

REDUCED = 3  # the block, of five, that takes tokens away
HERE = ["vit", "post_norm", "dinov3", *others.HERE]
every_model = pytest.mark.parametrize("family", HERE)


def small_model(family: str) -> nn.Module:
    return others.small_model(family) if family in others.FAMILIES else families.small_model(family)


def method_of(family: str, **settings: Any) -> vitrim.Method:
    method_for = others.method_for if family in others.FAMILIES else families.method_for
    return method_for("evit", family, **settings)


def parts(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Blocks and their attentions."""
    backbone = read_backbone(model)
    blocks = list(zip(backbone.blocks.children(), backbone.readers, strict=True))
    named = [(f"block {i}", block) for i, (block, _) in enumerate(blocks)]
    return named + [
        (f"attention {i}", getattr(block, reader.attention_name)) for i, (block, reader) in enumerate(blocks)
    ]


def first_tensor(given: Any) -> Tensor:
    while not isinstance(given, Tensor):
        assert type(given) is tuple
        given = given[0]
    return given


def listen(model: nn.Module) -> list[tuple[str, Tensor]]:
    """What enters and leaves the parts, from here on."""
    seen: list[tuple[str, Tensor]] = []

    def enter(name: str, _: nn.Module, args: Any, kwargs: Any) -> None:
        seen.append((f"into {name}", first_tensor(args or kwargs["hidden_states"])))

    def leave(name: str, _: nn.Module, __: Any, out: Any) -> None:
        seen.append((f"out of {name}", first_tensor(out)))

    for name, part in parts(model):
        part.register_forward_pre_hook(partial(enter, name), with_kwargs=True)
        part.register_forward_hook(partial(leave, name))
    return seen


@every_model
@torch.no_grad()
def test_hooks_see_the_features_that_they_see_on_the_unreduced_model(family: str) -> None:
    model, x = small_model(family), images()
    seen = listen(model)
    output(model, x)
    wanted = list(seen)
    vitrim.reduce_tokens(model, method_of(family, keep_rate=0.5, layers=(REDUCED,)))
    seen.clear()
    output(model, x)
    assert [name for name, _ in seen] == [name for name, _ in wanted]
    shorter = {
        f"out of block {REDUCED}",
        *(f"{way} {part} 4" for way in ("into", "out of") for part in ("block", "attention")),
    }
    for (name, got), (_, want) in zip(seen, wanted, strict=True):
        if name in shorter:
            assert got.shape[1] < want.shape[1] or (name == "out of block 4" and stack_of(model).spec.pools_patches)
        else:
            torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-4, msg=lambda text, name=name: f"{name}: {text}")


@every_model
def test_backward_hooks_run(family: str) -> None:
    model, called = small_model(family), []
    for name, part in parts(model):
        part.register_full_backward_hook(lambda _, __, grads, name=name: called.append((name, first_tensor(grads))))
        part.register_full_backward_pre_hook(lambda _, __, name=name: called.append((name, None)))
    vitrim.reduce_tokens(model, method_of(family, keep_rate=0.5, layers=(REDUCED,)))
    output(model, images().requires_grad_()).square().sum().backward()
    assert sorted(name for name, _ in called) == sorted(
        2 * [f"{kind} {i}" for kind in ("attention", "block") for i in range(5)]
    )
    assert all(grad.abs().sum() > 0 for _, grad in called if grad is not None)


@pytest.mark.parametrize("hooked", ["before", "while"])
@torch.no_grad()
def test_what_a_hook_returns_counts_and_it_can_be_removed_at_any_time(hooked: str) -> None:
    model, x = small_model("vit"), images()
    plain = vitrim.reduce_tokens(copy.deepcopy(model), "evit", keep_rate=0.5)(x)

    def hook() -> Any:
        return model.blocks[2].register_forward_hook(lambda _, __, out: out * 2)

    handle = hook() if hooked == "before" else None
    vitrim.reduce_tokens(model, "evit", keep_rate=0.5)
    handle = handle or hook()
    changed = model(x)
    assert not torch.allclose(changed, plain, atol=1e-3)
    unreduced = vitrim.restore(model)(x)
    handle.remove()
    assert not torch.allclose(model(x), unreduced, atol=1e-3)
    assert torch.equal(vitrim.reduce_tokens(model, "evit", keep_rate=0.5)(x), plain)


@torch.no_grad()
def test_hooks_on_the_list_of_blocks_and_on_all_modules_see_features() -> None:
    model, x, seen, of_all = small_model("vit"), images(), [], []
    model.blocks.register_forward_hook(lambda _, __, out: seen.append(out.shape))
    vitrim.reduce_tokens(model, "evit", keep_rate=0.5)
    handle = register_module_forward_hook(lambda module, _, out: of_all.append((type(module).__name__, type(out))))
    model(x)
    handle.remove()
    assert seen == [(2, 11, 48)]
    assert [name for name, _ in of_all].count("Block") == 5
    assert {kind for _, kind in of_all} == {Tensor}


@torch.no_grad()
def test_a_model_with_hooks_can_be_compiled() -> None:
    model, x, seen = vitrim.reduce_tokens(small_model("vit"), "evit", keep_rate=0.5), images(), []
    model.blocks[2].register_forward_hook(lambda _, __, out: out + 1)
    model.blocks[1].attn.register_forward_hook(lambda _, __, out: seen.append(out.shape))
    wanted = model(x)
    compiled = torch.compile(model, backend="eager")
    torch.testing.assert_close(compiled(x), wanted, atol=1e-5, rtol=1e-5)
    assert seen == [(2, 65, 48)] * 2
