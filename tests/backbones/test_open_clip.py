"""open_clip: its own towers and timm's, zero-shot classification, and a text tower that stays as it is."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import vitrim
from library_models import DEPTH, images, of_open_clip, scrambled, stack_of
from vitrim.backbones.reader import find_stack, read_backbone, restored
from vitrim.measure.model_input import input_size_of

open_clip = pytest.importorskip("open_clip")
TIMM = {"timm_model_name": "vit_tiny_patch16_224", "timm_pool": "", "image_size": 224}


def prompts(num_classes: int = 3) -> Tensor:
    """Token ids of one prompt for each class."""
    return torch.randint(1, 100, (num_classes, 8), generator=torch.Generator().manual_seed(5))


def with_a_timm_trunk(name: str = "vit_tiny_patch16_224") -> nn.Module:
    """A model whose vision tower is one of timm's, of 12 blocks."""
    vision = TIMM | {"timm_model_name": name}
    return scrambled(open_clip.model.CustomTextCLIP(24, vision, {"context_length": 8, "vocab_size": 100, "width": 32}))


@pytest.mark.parametrize("kind", ["CLIP", "CustomTextCLIP"])
@torch.no_grad()
def test_zero_shot_classification_works_end_to_end_and_text_is_untouched(kind: str) -> None:
    model = of_open_clip(kind)
    plain_image, plain_text = model.get_logits(images(4), prompts())
    text = model.encode_text(prompts())
    classifier = model.encode_text(prompts(), normalize=True).T
    vitrim.reduce_tokens(model, "evit", keep_rate=0.5)
    assert torch.equal(model.encode_text(prompts()), text)
    probabilities = (100 * model.encode_image(images(4), normalize=True) @ classifier).softmax(dim=-1)
    assert probabilities.shape == (4, 3)
    by_image, by_text = model.get_logits(images(4), prompts())
    assert torch.equal(by_image, by_text.T)
    assert not torch.allclose(by_image, plain_image, atol=1e-3)
    scaled = model.logit_scale.exp() * model.encode_image(images(4), normalize=True) @ classifier
    torch.testing.assert_close(by_image, scaled)
    with restored(model):
        assert torch.equal(model.get_logits(images(4), prompts())[1], plain_text)


@torch.no_grad()
def test_the_whole_model_and_its_tower_are_the_same_to_reduce() -> None:
    whole, tower = of_open_clip(), of_open_clip()
    vitrim.reduce_tokens(whole, "evit")
    vitrim.reduce_tokens(tower.visual, "evit")
    assert torch.equal(whole.encode_image(images()), tower.encode_image(images()))
    assert stack_of(tower) is stack_of(tower.visual)
    assert find_stack(vitrim.restore(tower)) is None


@torch.no_grad()
def test_a_tower_of_timm_is_read_inside_the_whole_model() -> None:
    model = with_a_timm_trunk()
    x = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    wanted, text = model.encode_image(x), model.encode_text(prompts())
    assert input_size_of(model) == (3, 224, 224)
    assert torch.equal(vitrim.reduce_tokens(model, "evit", keep_rate=1.0).encode_image(x), wanted)
    counts: list[int] = []
    for block in list(vitrim.reduce_tokens(model, "evit", keep_rate=0.7).visual.trunk.blocks)[:-1]:
        block.register_forward_hook(lambda _, __, out: counts.append(out.shape[1]))
    assert not torch.allclose(model.encode_image(x), wanted, atol=1e-3)
    assert counts == [197] * 3 + [140] * 3 + [100] * 3 + [72] * 2
    assert torch.equal(model.encode_text(prompts()), text)
    with pytest.raises(RuntimeError, match=r"forward_intermediates\(\)"):
        model.visual.forward_intermediates(x)
    assert torch.equal(vitrim.restore(model.visual) and model.encode_image(x), wanted)


@torch.no_grad()
def test_a_tower_of_timm_with_rotary_positions_is_read() -> None:
    model, x = with_a_timm_trunk("eva02_tiny_patch14_224"), torch.randn(1, 3, 224, 224)
    wanted = model.encode_image(x)
    assert torch.equal(vitrim.reduce_tokens(model, "evit", keep_rate=1.0).encode_image(x), wanted)
    assert not torch.allclose(vitrim.reduce_tokens(model, "evit", keep_rate=0.5).encode_image(x), wanted, atol=1e-3)


@pytest.mark.parametrize("kind", ["CLIP", "CustomTextCLIP"])
def test_a_text_tower_is_refused(kind: str) -> None:
    model = of_open_clip(kind)
    text = model.transformer if kind == "CLIP" else model.text
    with pytest.raises(vitrim.UnsupportedModel, match="text tower"):
        vitrim.reduce_tokens(text, "evit")


def test_gradient_checkpointing_gives_the_same_gradients() -> None:
    model = vitrim.reduce_tokens(of_open_clip(), "tome", r=5).train()
    twin = copy.deepcopy(model)
    twin.visual.set_grad_checkpointing()
    outputs = [each.encode_image(images()) for each in (model, twin)]
    assert torch.equal(*outputs)
    for out in outputs:
        out.square().sum().backward()
    for mine, other in zip(stack_of(model).parameters(), stack_of(twin).parameters(), strict=True):
        assert mine.grad is not None
        assert other.grad is not None
        assert torch.equal(mine.grad, other.grad)


def test_patch_dropout_in_training_works() -> None:
    vitrim.reduce_tokens(of_open_clip(patch_dropout=0.5), "evit").train().encode_image(images()).sum().backward()


def test_what_walks_the_blocks_refuses() -> None:
    model = vitrim.reduce_tokens(of_open_clip(), "evit")
    with pytest.raises(
        RuntimeError,
        match=r"forward_intermediates\(\).*vitrim.features",
    ):
        model.forward_intermediates(images())
    vitrim.restore(model)
    assert len(model.forward_intermediates(images())["image_intermediates"]) == DEPTH


def test_tokens_that_are_handed_out_are_on_the_grid_after_merging() -> None:
    model = of_open_clip("CustomTextCLIP", output_tokens=True)
    vitrim.reduce_tokens(model.visual, "tome", r=5)
    assert read_backbone(model).spec.pools_patches
    pooled, tokens = model.visual(images())
    assert (pooled.shape, tokens.shape) == ((2, 24), (2, 64, 48))
    assert len(tokens[0].unique(dim=0)) == 64 - 5 * DEPTH


def test_methods_that_need_a_classifier_say_so() -> None:
    with pytest.raises(ValueError, match="no classifier"):
        vitrim.reduce_tokens(of_open_clip(), vitrim.METR(method=vitrim.EViT()))


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"scaled_cosine_attn": True}, "scaled cosine"),
        ({"layers": (1, 1, 1, 1), "head_width": 16}, "ModifiedResNet.*open_clip"),
    ],
)
def test_other_towers_are_refused_in_one_line(settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(vitrim.UnsupportedModel, match=reason) as error:
        vitrim.reduce_tokens(of_open_clip(**settings), "evit")
    assert "\n" not in str(error.value)


def test_the_sequence_before_the_batch_is_refused() -> None:
    model = of_open_clip()
    model.visual.transformer.batch_first = False
    with pytest.raises(vitrim.UnsupportedModel, match=r"before the batch|batch_first"):
        vitrim.reduce_tokens(model, "evit")
