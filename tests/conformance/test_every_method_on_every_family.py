"""What holds for every method on every family of models."""

from __future__ import annotations

import copy
from typing import Any

import families
import pytest
import torch
from families import CASES, COVERING, NO_CLASS_TOKEN, SCORED_BY_CLASS_TOKEN
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

import vitrim
from every_method import DROPPING, MERGING, WEIGHTED_MEANS
from vitrim.core.selection import live_patches
from vitrim.core.stack import Snapshot, TokenStack
from vitrim.core.tokens import Tokens
from vitrim.testing import leaving_blocks

every_case = pytest.mark.parametrize(("family", "name"), CASES, ids=["-".join(case) for case in CASES])
covering_case = pytest.mark.parametrize(("family", "name"), COVERING, ids=["-".join(case) for case in COVERING])


@every_case
def test_keeping_all_is_bit_identical_to_the_unreduced_model(family: str, name: str) -> None:
    model, images = families.small_model(family), families.small_images(family)
    wanted = model(images)
    vitrim.reduce_tokens(model, families.method_that_keeps_all(name, family))
    assert torch.equal(model(images), wanted)


@covering_case
def test_reducing_changes_the_logits(family: str, name: str) -> None:
    model, images = families.small_model(family), families.small_images(family)
    wanted = model(images)
    assert not torch.equal(vitrim.reduce_tokens(model, families.method_for(name, family))(images), wanted)


@every_case
def test_every_block_lets_out_the_announced_number_of_tokens(family: str, name: str) -> None:
    model = families.reduced(family, name)
    images = families.small_images(family)
    with leaving_blocks(model) as seen:
        model(images)
    counts = [max(tokens.num_tokens_B) for tokens in seen[:-1]]
    num_tokens = families.embedded(model, images).shape[1]
    num_patches = num_tokens - model.num_prefix_tokens
    announced = []
    for layer in range(families.DEPTH):
        num_patches = model.blocks.method.num_kept(layer, num_patches)
        announced.append(model.num_prefix_tokens + num_patches)
    if model.blocks.method.varies:  # what any image keeps at most
        assert all(count <= most for count, most in zip(counts, announced, strict=False))
    else:
        assert counts == announced[:-1]
    assert counts[-1] < num_tokens


@covering_case
def test_every_patch_is_dropped_or_held_by_a_token_after_the_prefix(family: str, name: str) -> None:
    model = families.reduced(family, name)
    snapshots = recorded(model, families.small_images(family))
    assert snapshots
    for _, tokens in snapshots:
        assert tokens.num_prefix == model.num_prefix_tokens
        no_token_is_empty_and_none_of_the_prefix_holds_a_patch(tokens)
        if name not in MERGING or name not in DROPPING:
            merging = name in (*MERGING, *families.VARIANTS)
            merging_loses_no_patch_and_dropping_merges_none(tokens, merging, model.blocks.method.propagates)
        if name in (*WEIGHTED_MEANS, *families.VARIANTS) or name not in MERGING:
            weights_of_a_token_sum_to_one(tokens)


def no_token_is_empty_and_none_of_the_prefix_holds_a_patch(tokens: Tokens) -> None:
    assert tokens.source_BP is not None
    for source_P, num_tokens in zip(tokens.source_BP, tokens.num_tokens_B, strict=True):
        assert set(source_P.tolist()) - {-1} == set(range(tokens.num_prefix, num_tokens))


def merging_loses_no_patch_and_dropping_merges_none(tokens: Tokens, merging: bool, propagates: bool) -> None:
    assert tokens.source_BP is not None
    dropped_B = (tokens.source_BP < 0).sum(dim=1)
    num_patches = tokens.source_BP.shape[1]
    kept_B = [num_tokens - tokens.num_prefix for num_tokens in tokens.num_tokens_B]
    assert dropped_B.tolist() == [0 if merging else num_patches - kept for kept in kept_B]
    if tokens.size_BN is not None and not propagates:
        sizes = tokens.size_BN if tokens.lengths is None else torch.split(tokens.size_BN[0], list(tokens.lengths))
        assert [size_N.sum().item() for size_N in sizes] == [num_patches + tokens.num_prefix] * len(dropped_B)


def weights_of_a_token_sum_to_one(tokens: Tokens) -> None:
    assert tokens.source_BP is not None
    assert tokens.weight_BP is not None
    total_BN = torch.zeros(tokens.padded_BNC.shape[:2]).scatter_add(
        1, tokens.source_BP.clamp(min=0), tokens.weight_BP
    )  # dropped patches weigh 0
    torch.testing.assert_close(total_BN[:, tokens.num_prefix :], live_patches(tokens).float())


@covering_case
@torch.no_grad()
def test_the_first_reduction_leaves_the_prefix_as_a_plain_block_makes_it(family: str, name: str) -> None:
    plain, images = families.small_model(family), families.small_images(family)
    x_BNC = families.embedded(plain, images)
    stack = vitrim.reduce_tokens(copy.deepcopy(plain), families.method_for(name, family)).blocks
    if stack.method.before_attention:
        the_input_of_the_first_reducing_block_keeps_its_prefix(stack, x_BNC)
        return
    tokens = stack[0](x_BNC)
    wanted = plain.blocks[0](x_BNC)
    if tokens.x_BNC.shape == x_BNC.shape:
        tokens, wanted = stack[1](tokens), plain.blocks[1](wanted)
    assert max(tokens.num_tokens_B) < x_BNC.shape[1]
    prefix = plain.num_prefix_tokens
    torch.testing.assert_close(tokens.padded_BNC[:, :prefix], wanted[:, :prefix], atol=1e-5, rtol=1e-5)


def the_input_of_the_first_reducing_block_keeps_its_prefix(stack: TokenStack, x_BNC: Tensor) -> None:
    first = stack.method.reducing_layers(stack.spec)[0]
    tokens: Any = x_BNC
    for block in list(stack)[:first]:
        tokens = block(tokens)
    if not isinstance(tokens, Tokens):
        tokens = Tokens(x_BNC, stack.spec.num_prefix)
    reduced = stack[first].acting.bound.before_block(first, tokens)
    assert reduced.x_BNC[:, : tokens.num_prefix].equal(tokens.x_BNC[:, : tokens.num_prefix])


@covering_case
def test_bf16_is_finite_and_near_fp32(family: str, name: str) -> None:
    model, images = families.reduced(family, name), families.small_images(family)
    wanted = model(images)
    got = model.bfloat16()(images.bfloat16())
    assert got.dtype == torch.bfloat16
    assert got.isfinite().all()
    assert torch.nn.functional.cosine_similarity(got.float(), wanted).min() > 0.7  # other tokens may be kept


@covering_case
@torch.inference_mode()
def test_a_batch_equals_its_images_one_by_one(family: str, name: str) -> None:
    model, images = families.reduced(family, name), families.small_images(family, 3)
    one_by_one = torch.cat([model(image.unsqueeze(0)) for image in images])
    assert (model(images) - one_by_one).abs().max() < 1e-5


def _permutation_case(family: str, name: str) -> object:
    reason = f"{name} chooses tokens by their place in the sequence, by design"
    marks = [pytest.mark.xfail(strict=True, reason=reason)] if name in families.BY_POSITION else []
    return pytest.param(family, name, marks=marks, id=f"{family}-{name}")


@pytest.mark.parametrize(
    ("family", "name"),
    [
        _permutation_case(*case)
        for case in COVERING
        if case[1] not in families.BY_POSITION or case[0] in ("vit", "siglip")
    ],
)
@torch.inference_mode()
def test_permuting_patches_with_their_positions_does_not_change_the_logits(family: str, name: str) -> None:
    model, images = families.reduced(family, name), families.small_images(family)
    x_BNC = families.embedded(model, images)
    prefix, patches = x_BNC.split([model.num_prefix_tokens, x_BNC.shape[1] - model.num_prefix_tokens], dim=1)
    order = torch.randperm(patches.shape[1], generator=torch.Generator().manual_seed(2))
    permuted = torch.cat([prefix, patches[:, order]], dim=1)
    table = families.rotations(model)
    turned = None if table is None else table[..., order, :]
    wanted = families.logits_of(model, x_BNC, table)
    assert torch.equal(wanted, model(images))
    assert (families.logits_of(model, permuted, turned) - wanted).abs().max() < 1e-5


@pytest.mark.parametrize("name", [name for name in vitrim.list_methods() if name not in families.BY_POSITION])
@torch.inference_mode()
def test_permuting_an_images_patches_and_the_position_embedding_does_not_change_the_logits(name: str) -> None:
    model, images = families.reduced("vit", name), families.small_images("vit")
    wanted = model(images)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(2))
    patches = nn.functional.unfold(images, 4, stride=4)[:, :, order]
    positions = model.pos_embed.clone()
    positions[:, 1:] = positions[:, 1:][:, order]
    model.pos_embed = nn.Parameter(positions, requires_grad=False)
    assert (model(nn.functional.fold(patches, (32, 32), 4, stride=4)) - wanted).abs().max() < 1e-5


@pytest.mark.parametrize("family", NO_CLASS_TOKEN)
@pytest.mark.parametrize("name", SCORED_BY_CLASS_TOKEN)
def test_a_model_without_a_class_token_needs_another_scorer(family: str, name: str) -> None:
    model, images = families.small_model(family), families.small_images(family)
    wanted = model(images)
    with pytest.raises(ValueError, match=r"scorer='received'.*scorer='norm'"):
        vitrim.reduce_tokens(model, name)
    assert torch.equal(model(images), wanted)
    by_norm = vitrim.reduce_tokens(copy.deepcopy(model), name, scorer="norm")(images)
    by_received = vitrim.reduce_tokens(model, name, scorer="received")(images)
    assert not torch.equal(by_norm, by_received)


@pytest.mark.parametrize("name", vitrim.list_methods())
def test_both_heads_of_a_distilled_model_work(name: str) -> None:
    model, images = families.reduced("deit_distilled", name), families.small_images("deit_distilled")
    wanted = model(images)
    model.set_distilled_training()
    model.train().blocks.eval()  # where some methods mask at random in training
    by_class, by_distillation = model(images)
    torch.testing.assert_close((by_class + by_distillation) / 2, wanted)
    assert not torch.allclose(by_class, by_distillation)


def recorded(model: VisionTransformer, images: Tensor) -> list[tuple[int, Tokens]]:
    """The tokens after every reducing block."""
    snapshots: list[Snapshot] = []
    model.blocks.record_into(snapshots)
    model(images)
    model.blocks.record_into(None)
    return [(snapshot.layer, snapshot.tokens) for snapshot in snapshots]
