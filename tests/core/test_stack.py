"""The loop over blocks: what is recorded, what may be done to a reduced model, and what is refused."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

import vitrim
from every_method import NAMES, amount
from vitrim.core.stack import Snapshot, TokenBlock
from vitrim.testing import leaving_blocks

EVERY = [(name, amount(name, per_block=11)) for name in NAMES]


every_method = pytest.mark.parametrize(("name", "settings"), EVERY, ids=[name for name, _ in EVERY])


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_traced_unless_somebody_records(tiny_vit: Callable[..., VisionTransformer], name: str) -> None:
    model, images = vitrim.reduce_tokens(tiny_vit(), name, **amount(name, per_block=3)), torch.randn(2, 3, 32, 32)
    snapshots: list[Snapshot] = []
    with leaving_blocks(model) as before:
        quiet = model(images)
    model.blocks.record_into(snapshots)
    with leaving_blocks(model) as seen:
        assert torch.equal(model(images), quiet)
    model.blocks.record_into(None)
    with leaving_blocks(model) as after:
        assert torch.equal(model(images), quiet)
    assert len(before) == len(seen) == len(after) == 12
    assert all(tokens.source_BP is None and tokens.weight_BP is None for tokens in (*before, *after))
    assert [snapshot.layer for snapshot in snapshots] == list(model.blocks.method.reducing_layers(model.blocks.spec))
    first = snapshots[0].layer  # before it, every patch is in its own token
    assert [tokens.source_BP is None for tokens in seen] == [layer < first for layer in range(12)]
    assert all((tokens.source_BP is None) == (tokens.weight_BP is None) for tokens in seen)


def test_every_reduction_is_recorded_even_where_the_number_of_tokens_stays(
    tiny_vit: Callable[..., VisionTransformer],
) -> None:
    counts = [None, 63, 63, *[None] * 9]  # blocks 1 and 2 fuse one of the 64 they get, and let out 64
    model = vitrim.reduce_tokens(tiny_vit(), vitrim.EViT(tokens=counts, keep_rate=1.0))
    snapshots: list[Snapshot] = []
    model.blocks.record_into(snapshots)
    model(torch.randn(1, 3, 32, 32))
    assert [snapshot.layer for snapshot in snapshots] == [1, 2]


@pytest.mark.parametrize("walker", ["forward_intermediates", "get_intermediate_layers"])
def test_code_that_walks_block_by_block_raises_and_works_again_after_restore(
    tiny_vit: Callable[..., VisionTransformer], walker: str
) -> None:
    model, images = tiny_vit(), torch.randn(1, 3, 32, 32)
    wanted = getattr(model, walker)(images)
    vitrim.reduce_tokens(model, "evit")
    for each in (model, copy.deepcopy(model), vitrim.reduce_tokens(model, "tome", r=2)):
        with pytest.raises(RuntimeError, match=rf"{walker}\(\).*restore\(model\)"):
            getattr(each, walker)(images)
    got = getattr(vitrim.restore(model), walker)(images)
    torch.testing.assert_close(got, wanted, atol=0, rtol=0)


def test_pruning_blocks_raises_while_reduced(tiny_vit: Callable[..., VisionTransformer]) -> None:
    model = vitrim.reduce_tokens(tiny_vit(), "evit")
    with pytest.raises(RuntimeError, match=r"restore\(model\)"):
        model.prune_intermediate_layers(1)


def test_an_attention_mask_is_refused(tiny_vit: Callable[..., VisionTransformer]) -> None:
    model, images = vitrim.reduce_tokens(tiny_vit(), "evit"), torch.randn(1, 3, 32, 32)
    with pytest.raises(ValueError, match="attention mask"):
        model(images, attn_mask=torch.ones(65, 65, dtype=torch.bool))
    with pytest.raises(ValueError, match="attention mask"):
        model(images, is_causal=True)


def test_applying_does_not_run_hooks(tiny_vit: Callable[..., VisionTransformer]) -> None:
    model, calls = tiny_vit(), []
    model.blocks[2].mlp.register_forward_hook(lambda *_: calls.append(1))
    vitrim.reduce_tokens(model, "evit")
    assert calls == []


def test_hooks_inside_a_block_still_run(tiny_vit: Callable[..., VisionTransformer]) -> None:
    model, widths = vitrim.reduce_tokens(tiny_vit(), "evit"), []
    model.blocks[3].mlp.register_forward_hook(lambda _, __, out: widths.append(out.shape[1]))
    model(torch.randn(1, 3, 32, 32))
    assert widths == [1 + 45 + 1]


def test_the_logits_are_the_same_under_every_mode_of_autograd(tiny_vit: Callable[..., VisionTransformer]) -> None:
    model, images = vitrim.reduce_tokens(tiny_vit(), "evit"), torch.randn(2, 3, 32, 32)
    wanted = model(images)
    assert wanted.requires_grad
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            assert torch.equal(model(images), wanted)


@pytest.mark.parametrize("setting", ["drop_path_rate", "proj_drop_rate", "attn_drop_rate", "pos_drop_rate"])
def test_dropout_and_drop_path_act_in_training_only(tiny_vit: Callable[..., VisionTransformer], setting: str) -> None:
    model = vitrim.reduce_tokens(tiny_vit(**{setting: 0.5}), "tome", r=0)
    images = torch.randn(4, 3, 32, 32)
    assert torch.equal(model(images), model(images))
    model.train()
    assert not torch.equal(model(images), model(images))


def test_training_noise_equals_the_plain_models(tiny_vit: Callable[..., VisionTransformer]) -> None:
    plain = tiny_vit(drop_path_rate=0.3, proj_drop_rate=0.2, attn_drop_rate=0.2).train()
    reduced = vitrim.reduce_tokens(copy.deepcopy(plain), vitrim.EViT(keep_rate=1.0))
    images, outputs = torch.randn(4, 3, 32, 32), []
    for model in (plain, reduced):
        torch.manual_seed(5)
        outputs.append(model(images))
    assert torch.equal(*outputs)


def test_modes_follow_the_model_through_reduce_and_restore(tiny_vit: Callable[..., VisionTransformer]) -> None:
    model = tiny_vit().train()
    vitrim.reduce_tokens(model, "evit")
    assert all(module.training for module in model.modules())
    model.eval()
    vitrim.restore(model)
    assert not any(module.training for module in model.modules())
    model.blocks[3].train()
    vitrim.restore(vitrim.reduce_tokens(model, "evit"))
    assert [block.training for block in model.blocks] == [layer == 3 for layer in range(12)]


def test_moving_and_replacing_parameters_acts_on_both_views(tiny_vit: Callable[..., VisionTransformer]) -> None:
    model, images = vitrim.reduce_tokens(tiny_vit(), "evit"), torch.randn(2, 3, 32, 32)
    wanted = model.double()(images.double())
    assert all(parameter.dtype == torch.float64 for parameter in model.blocks.parameters())
    state = {key: value.clone() for key, value in model.state_dict().items()}
    model.load_state_dict({key: torch.zeros_like(value) for key, value in state.items()}, assign=True)
    assert not model(images.double()).any()
    model.load_state_dict(state, assign=True)
    assert torch.equal(model(images.double()), wanted)
    model.blocks[4].mlp = nn.Identity()
    vitrim.restore(model)
    assert isinstance(model.blocks[4].mlp, nn.Identity)
    assert all(parameter.dtype == torch.float64 for parameter in model.parameters())


def test_optimisers_made_before_or_after_train_the_same_parameters(tiny_vit: Callable[..., VisionTransformer]) -> None:
    model = tiny_vit().train()
    before = torch.optim.SGD(model.parameters(), lr=0.1)
    vitrim.reduce_tokens(model, "evit")
    assert [id(p) for p in model.parameters()] == [id(p) for p in before.param_groups[0]["params"]]
    weight = model.blocks[5].mlp.fc1.weight.detach().clone()
    model(torch.randn(2, 3, 32, 32)).square().sum().backward()
    before.step()
    vitrim.restore(model)
    assert not torch.equal(model.blocks[5].mlp.fc1.weight, weight)


def test_names_of_modules_stay(tiny_vit: Callable[..., VisionTransformer]) -> None:
    model = tiny_vit()
    names = [name for name, _ in model.named_modules()]
    vitrim.reduce_tokens(model, "evit")
    assert [name for name, _ in model.named_modules()] == names
    assert isinstance(model.blocks[0], TokenBlock)
    assert len(model.blocks) == 12


def test_two_forwards_may_be_in_flight(tiny_vit: Callable[..., VisionTransformer]) -> None:
    model = vitrim.reduce_tokens(tiny_vit(), "tome", r=3)
    first, second = torch.randn(2, 2, 3, 32, 32)
    wanted = [model(first), model(second)]
    x, y = ([model.norm_pre(model._pos_embed(model.patch_embed(images)))] for images in (first, second))
    for block in model.blocks:
        x.append(block(x[-1]))
        y.append(block(y[-1]))
    for got, logits in zip((x[-1], y[-1]), wanted, strict=True):
        assert torch.equal(model.forward_head(model.norm(got)), logits)


def test_autocast_keeps_the_features_in_fp32(tiny_vit: Callable[..., VisionTransformer]) -> None:
    model = vitrim.reduce_tokens(tiny_vit(), "tome", r=3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(torch.randn(2, 3, 32, 32))
    assert logits.isfinite().all()


@every_method
def test_an_empty_batch_gives_empty_logits(
    tiny_vit: Callable[..., VisionTransformer], name: str, settings: dict[str, Any]
) -> None:
    model = vitrim.reduce_tokens(tiny_vit(), name, **(settings | ({"r": 3} if "r" in settings else {})))
    assert model(torch.randn(0, 3, 32, 32)).shape == (0, 10)


def test_the_head_may_be_reset_and_another_pooling_has_to_be_reduced_for(
    tiny_vit: Callable[..., VisionTransformer],
) -> None:
    model, images = vitrim.reduce_tokens(tiny_vit(), "tome", r=4), torch.randn(2, 3, 32, 32)
    model.reset_classifier(7)
    logits = model(images)
    assert logits.shape == (2, 7)
    assert torch.equal(logits, model.head(model.forward_features(images)[:, 0]))
    model.reset_classifier(7, "avg")
    for each in (model, copy.deepcopy(model)):
        with pytest.raises(ValueError, match=r"global_pool='avg'.*reduce_tokens"):
            each(images)
    assert vitrim.reduce_tokens(model, "tome", r=4)(images).shape == (2, 7)


def test_reduced_blocks_cannot_be_cut_apart(tiny_vit: Callable[..., VisionTransformer]) -> None:
    model = vitrim.reduce_tokens(tiny_vit(), "evit")
    with pytest.raises(RuntimeError, match=r"blocks.*restore\(model\)"):
        model.blocks[:6](torch.randn(1, 65, 48))
    assert list(model.blocks[2:4]) == [model.blocks[2], model.blocks[3]]  # to freeze them, say
    assert len(vitrim.restore(model).blocks[:6]) == 6


@pytest.mark.parametrize(
    "cut",
    [
        lambda blocks: blocks.pop(3),
        lambda blocks: blocks.append(nn.Identity()),
        lambda blocks: blocks.insert(0, nn.Identity()),
        lambda blocks: blocks.extend([nn.Identity()]),
        lambda blocks: blocks.__delitem__(3),
    ],
    ids=["pop", "append", "insert", "extend", "del"],
)
def test_blocks_are_neither_added_nor_taken_away(tiny_vit: Callable[..., VisionTransformer], cut: Any) -> None:
    model = vitrim.reduce_tokens(tiny_vit(), "evit")
    with pytest.raises(RuntimeError, match=r"restore\(model\)"):
        cut(model.blocks)
    assert len(model.blocks) == 12


@pytest.mark.parametrize("attention", ["fused", "own"])
def test_a_model_in_float64_keeps_its_bits(tiny_vit: Callable[..., VisionTransformer], attention: str) -> None:
    model, images = tiny_vit(num_heads=6).double(), torch.randn(2, 3, 32, 32).double()  # 8 channels: an odd scale
    for block in model.blocks:
        block.attn.fused_attn = attention == "fused"
    wanted = model(images)
    assert torch.equal(vitrim.reduce_tokens(model, "evit", keep_rate=1.0)(images), wanted)


def test_old_names_of_the_stack_work_and_say_the_new_one(tiny_vit: Callable[..., VisionTransformer]) -> None:
    stack = vitrim.reduce_tokens(tiny_vit(), "evit").blocks
    with pytest.warns(DeprecationWarning, match="set_method"):
        stack.act(vitrim.EViT(keep_rate=0.4))
    assert stack.method.keep_rate == (0.4, 0.4, 0.4)
    with pytest.warns(DeprecationWarning, match="collect_outputs"):
        stack.publish_into(None)
