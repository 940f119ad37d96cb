"""The fused attention kernel stays in use, no N x N matrix is formed, and one static graph comes out."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

import vitrim
from every_method import EVERYWHERE, FIXED, PLAIN, amount
from operations import FUSED, Operations
from vitrim.methods import settings_of

BY_SHAPE = [name for name in FIXED if "curve" in settings_of(name)]  # their share is of all blocks together
EVERY = [
    (name, amount(name, per_block=11 if name in EVERYWHERE else 22, share=0.8 if name in EVERYWHERE else None))
    for name in FIXED
    if name not in BY_SHAPE and not PLAIN[name].forms_matrix
] + [(name, amount(name, per_block=0, share=0.5)) for name in BY_SHAPE]  # test_packing has the others

every_method = pytest.mark.parametrize(("name", "settings"), EVERY, ids=[name for name, _ in EVERY])


def few(settings: dict[str, Any]) -> dict[str, Any]:
    """The same for a model of 64 patches."""
    return settings | ({"r": 3} if "r" in settings else {})


def other_scorers() -> list[tuple[str, dict[str, Any]]]:
    scored = [name for name in FIXED if "scorer" in settings_of(name)]
    shares = {name: settings for name, settings in EVERY if name in BY_SHAPE}
    scorers = ("received", "norm", "shift")
    return [(name, shares.get(name, {}) | {"scorer": scorer}) for name in scored for scorer in scorers]


@contextmanager
def counted_tokens(model: VisionTransformer) -> Iterator[list[int]]:
    """How many tokens enter each block."""
    counts: list[int] = []

    handles = [
        block.register_forward_pre_hook(lambda _, inputs: counts.append(inputs[0].shape[1])) for block in model.blocks
    ]
    yield counts
    for handle in handles:
        handle.remove()


@pytest.mark.parametrize(("name", "settings"), EVERY + other_scorers())
def test_the_fused_kernel_runs_and_no_square_matrix_of_tokens_is_formed(
    tiny_vit: Callable[..., VisionTransformer], name: str, settings: dict[str, Any]
) -> None:
    model = vitrim.reduce_tokens(tiny_vit(img_size=48), name, **settings)  # 144 patches and the class token
    with counted_tokens(model) as counts, torch.no_grad(), Operations() as operations:
        model(torch.randn(2, 3, 48, 48))
    assert len(counts) == 12
    assert counts[0] == 145
    assert counts[-1] < 80
    attended = counts[1:] + counts[-1:] if model.blocks.method.before_attention else counts
    assert [shape[2] for shape in operations.named(FUSED) if len(shape) == 4] == attended
    squares = {(count, count) for count in counts} - {(48, 48)}  # which the images are
    assert [made for made in operations.made if made[1][-2:] in squares] == []


@pytest.mark.parametrize("keep_rate", [1.0, 0.5])
def test_in_bf16_too_a_model_that_keeps_all_gives_its_own_numbers(
    tiny_vit: Callable[..., VisionTransformer], keep_rate: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vitrim.core.attention.has_bf16_matmul", lambda: True)
    model, x_BCHW = tiny_vit(img_size=48).bfloat16(), torch.randn(2, 3, 48, 48).bfloat16()
    with torch.no_grad():
        logits = model(x_BCHW)
        vitrim.reduce_tokens(model, "evit", keep_rate=keep_rate)
        with Operations() as operations:
            reduced = model(x_BCHW)
    assert len(operations.named(FUSED)) == (0 if keep_rate < 1 else 24)  # two outputs of each call
    assert reduced.equal(logits) == (keep_rate == 1)


def test_a_short_sequence_forms_no_square_matrix_either(tiny_vit: Callable[..., VisionTransformer]) -> None:
    model = vitrim.reduce_tokens(tiny_vit(), vitrim.EViT(scorer="received"))
    with torch.no_grad(), Operations() as operations:
        model(torch.randn(2, 3, 32, 32))
    assert (2, 3, 47, 47) not in [shape for _, shape in operations.made]


def test_the_check_for_square_matrices_sees_one(tiny_vit: Callable[..., VisionTransformer]) -> None:
    model = tiny_vit()
    model.blocks[0].attn.fused_attn = False
    with torch.no_grad(), Operations() as operations:
        model(torch.randn(1, 3, 32, 32))
    assert (1, 3, 65, 65) in [shape for _, shape in operations.made]
    assert len(operations.named(FUSED)) == 22  # output and log-sum-exp of each of the other 11


@pytest.mark.parametrize(("name", "settings"), [case for case in EVERY if not PLAIN[case[0]].trains_by_masks])
def test_a_training_step_uses_the_fused_kernel_too(
    tiny_vit: Callable[..., VisionTransformer], name: str, settings: dict[str, Any]
) -> None:
    model = vitrim.reduce_tokens(tiny_vit(img_size=48), name, **settings).train()
    with Operations() as operations:
        model(torch.randn(2, 3, 48, 48)).sum().backward()
    assert len([shape for shape in operations.named(FUSED) if len(shape) == 4]) == 12
    assert (2, 3, 145, 145) not in [shape for _, shape in operations.made]


def compiled(model: nn.Module) -> nn.Module:
    torch._dynamo.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.compile(model, fullgraph=True)


@pytest.mark.slow
@every_method
def test_a_reduced_model_compiles_to_one_graph(
    tiny_vit: Callable[..., VisionTransformer], name: str, settings: dict[str, Any]
) -> None:
    # vid-TLDR stretches small differences of entropies, which rounding to fp32 would change.
    kind = torch.float64 if name == "vid_tldr" else torch.float32
    model = vitrim.reduce_tokens(tiny_vit(depth=4).to(kind), name, **few(settings))
    images = torch.randn(2, 3, 32, 32, dtype=kind)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.testing.assert_close(compiled(model)(images), model(images), atol=1e-5, rtol=1e-5)


@every_method
def test_an_exported_model_equals_the_eager_one_at_any_batch_size(
    tiny_vit: Callable[..., VisionTransformer], name: str, settings: dict[str, Any]
) -> None:
    # Two reductions in a row have every formula of counts, and each block more takes the exporter a second.
    first = PLAIN[name].first_layer
    layers = {"layers": (first, first + 1)} if "layers" in settings_of(name) else {}
    assert_exports(vitrim.reduce_tokens(tiny_vit(depth=first + 2), name, **few(settings), **layers))


def test_a_model_that_averages_its_patches_exports_too(tiny_vit: Callable[..., VisionTransformer]) -> None:
    assert_exports(vitrim.reduce_tokens(tiny_vit(depth=2, class_token=False, global_pool="avg"), "tome", r=11))


def assert_exports(model: VisionTransformer) -> None:
    batch = torch.export.Dim("batch", min=1, max=64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(model, (torch.randn(2, 3, 32, 32),), dynamic_shapes=({0: batch},)).module()
    for num_images in (1, 3, 5):
        images = torch.randn(num_images, 3, 32, 32)
        torch.testing.assert_close(program(images), model(images), atol=1e-5, rtol=1e-5)
