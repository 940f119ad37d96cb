"""Models whose head reads the patch tokens: a merged token counts for all the patches in it, a dropped one for none."""

from __future__ import annotations

import copy
from typing import Any

import families
import pytest
import torch
from families import DEPTH, method_for
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

import vitrim
from every_method import DROPPING, MERGING, PLAIN, WEIGHTED_MEANS, in_layers
from vitrim.core.stack import Snapshot
from vitrim.core.tokens import Tokens

POOLINGS: dict[str, dict[str, Any]] = {
    "average": {"class_token": False, "global_pool": "avg"},
    "average_registers": {"class_token": False, "reg_tokens": 4, "global_pool": "avg"},
    "average_beside_class": {"global_pool": "avg"},
    "average_with_class": {"global_pool": "avg", "pool_include_prefix": True},
    "attention": {"class_token": False, "global_pool": "map"},
    "average_and_maximum": {"class_token": False, "global_pool": "avgmax"},
    "maximum": {"class_token": False, "global_pool": "max"},
    "prr": {"class_token": False, "global_pool": "prr"},
}
POOLED = [  # most of these models have no class token
    name
    for name in MERGING
    if name not in families.NEEDS_CLASS_TOKEN and name not in DROPPING and not PLAIN[name].brings_back
]
EXACT = [  # what lets equal patches merge without a trace
    name
    for name in WEIGHTED_MEANS
    if name not in DROPPING
    and not PLAIN[name].fuses
    and (PLAIN[name].size_in_attention or not PLAIN[name].before_attention)
]
# Where each image drops its own number, dropped patches get the mean of the others. These heads see the difference.
BY_MORE_THAN_THE_MEAN = ("average_with_class", "attention", "prr")
ONLY_DROPPING = [name for name in DROPPING if name not in MERGING]
every_pooling = pytest.mark.parametrize("pooling", POOLINGS)


def model_with(pooling: str, **settings: Any) -> VisionTransformer:
    torch.manual_seed(0)
    model = VisionTransformer(**families.SMALL, **POOLINGS[pooling], **settings).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model


def method_at(name: str, layers: tuple[int, ...]) -> vitrim.Method:
    scorer = {"scorer": "received"} if name in families.SCORED_BY_CLASS_TOKEN else {}
    return method_for(name, **in_layers(name, layers, DEPTH, per_block=10, share=0.75), **scorer)


def last_tokens(model: VisionTransformer, images: Tensor) -> Tokens:
    """What the last block, which reduces, makes."""
    snapshots: list[Snapshot] = []
    model.blocks.record_into(snapshots)
    model(images)
    model.blocks.record_into(None)
    assert snapshots[-1].layer == DEPTH - 1
    return snapshots[-1].tokens


@every_pooling
@pytest.mark.parametrize("name", POOLED)
@torch.no_grad()
def test_the_head_sees_every_merged_token_once_per_patch(pooling: str, name: str) -> None:
    model = vitrim.reduce_tokens(model_with(pooling), method_at(name, (1, DEPTH - 1)))
    images = families.small_images("vit").double()
    logits, tokens = model(images), last_tokens(model, images)
    assert tokens.source_BP is not None
    for logits_K, x_NC, source_P in zip(logits, tokens.padded_BNC, tokens.source_BP, strict=True):
        counts_N = torch.bincount(source_P, minlength=len(x_NC))
        counts_N[: tokens.num_prefix] = 1
        assert counts_N.max() > 1
        assert counts_N.sum() == 64 + tokens.num_prefix
        repeated = x_NC.repeat_interleave(counts_N, dim=0).unsqueeze(0)
        torch.testing.assert_close(model.forward_head(model.norm(repeated))[0], logits_K)


@pytest.mark.parametrize("pooling", ["average", "average_beside_class"])
@pytest.mark.parametrize("name", POOLED)
@torch.no_grad()
def test_the_average_is_the_mean_weighted_by_size(pooling: str, name: str) -> None:
    model = vitrim.reduce_tokens(model_with(pooling), method_at(name, (DEPTH - 1,)))
    images = families.small_images("vit").double()
    tokens = last_tokens(model, images)
    assert tokens.source_BP is not None
    size_BN = nn.functional.one_hot(tokens.source_BP, max(tokens.num_tokens_B)).sum(dim=1).double()
    mean_BC = (size_BN.unsqueeze(1) @ tokens.padded_BNC).squeeze(1) / 64
    torch.testing.assert_close(model.head(model.fc_norm(mean_BC)), model(images))


@pytest.mark.parametrize(
    ("pooling", "name"),
    [
        (pooling, name)
        for pooling in POOLINGS
        for name in ONLY_DROPPING
        if not PLAIN[name].varies or pooling not in BY_MORE_THAN_THE_MEAN
    ],
)
@torch.no_grad()
def test_the_head_sees_only_the_kept_tokens_where_the_others_are_dropped(pooling: str, name: str) -> None:
    model = vitrim.reduce_tokens(model_with(pooling), method_at(name, (1, DEPTH - 1)))
    images = families.small_images("vit").double()
    logits, tokens = model(images), last_tokens(model, images)
    for logits_K, x_NC, num_tokens in zip(logits, tokens.padded_BNC, tokens.num_tokens_B, strict=True):
        assert num_tokens < 64
        torch.testing.assert_close(model.forward_head(model.norm(x_NC[:num_tokens].unsqueeze(0)))[0], logits_K)


@pytest.mark.parametrize("pooling", ["average", "attention", "maximum"])
@torch.no_grad()
def test_patches_dropped_beside_merged_ones_do_not_enter_the_average(pooling: str) -> None:
    plain = model_with(pooling, fc_norm=False)
    images = families.small_images("vit").double()
    method = method_for("beyond_attentive", scorer="received", inattentive="drop", match=False)
    wanted = vitrim.reduce_tokens(copy.deepcopy(plain), "evit-nofuse", scorer="received")(images)
    torch.testing.assert_close(vitrim.reduce_tokens(plain, method)(images), wanted)


@pytest.mark.parametrize("pooling", ["average", "attention"])
@pytest.mark.parametrize("name", EXACT)
@torch.no_grad()
def test_merging_equal_patches_in_the_last_block_changes_nothing(pooling: str, name: str) -> None:
    plain, image = model_with(pooling, pos_embed="none"), two_kinds_of_patches()
    wanted = plain(image)
    model = vitrim.reduce_tokens(plain, method_at(name, (DEPTH - 1,)))
    assert last_tokens(model, image).num_patches < 64
    torch.testing.assert_close(model(image), wanted)


@pytest.mark.parametrize("pooling", ["average", "average_registers", "average_beside_class", "attention"])
@torch.no_grad()
def test_proportional_attention_makes_merging_equal_patches_change_nothing_in_any_block(pooling: str) -> None:
    plain, image = model_with(pooling, pos_embed="none"), two_kinds_of_patches()
    wanted = plain(image)
    model = vitrim.reduce_tokens(plain, vitrim.ToMe(r=(8, -1.0)))
    assert last_tokens_before_pooling(model, image) < 40
    torch.testing.assert_close(model(image), wanted)
    without = vitrim.reduce_tokens(plain, vitrim.ToMe(r=(8, -1.0), prop_attn=False))
    assert not torch.allclose(without(image), wanted, atol=1e-3)


@pytest.mark.parametrize("name", POOLED)
@torch.no_grad()
def test_a_pool_of_ones_own_behind_a_model_without_classes_is_the_librarys(name: str) -> None:
    images = families.small_images("vit").double()
    whole = model_with("average_beside_class", fc_norm=False)
    bare = model_with("average_beside_class", fc_norm=False)
    bare.reset_classifier(0, "token")
    for each in (whole, bare):
        vitrim.reduce_tokens(each, method_at(name, (1, DEPTH - 1)))
    features_BNC = bare.forward_features(images)
    assert features_BNC.shape[1] == 1 + 64
    torch.testing.assert_close(whole.head(features_BNC[:, 1:].mean(dim=1)), whole(images))
    assert vitrim.reduce_tokens(bare, "tome", r=8, pools_patches=False).forward_features(images).shape[1] < 64


@torch.no_grad()
def test_the_callers_word_on_pooling_counts_and_a_head_that_pools_is_not_denied() -> None:
    model = VisionTransformer(**families.SMALL).double().eval()
    images = families.small_images("vit").double()
    vitrim.reduce_tokens(model, "tome", r=8, pools_patches=True)
    assert model.forward_features(images).shape[1] == 1 + 64
    for wrong, message in ((False, "pools patch tokens"), ("yes", "not 'yes'")):
        with pytest.raises(ValueError, match=message):
            vitrim.reduce_tokens(model_with("average"), "tome", r=8, pools_patches=wrong)  # type: ignore[arg-type]


@torch.no_grad()
def test_a_pool_that_is_chosen_after_the_reduction_is_noticed() -> None:
    images = families.small_images("vit").double()
    model = VisionTransformer(**families.SMALL, fc_norm=False).double().eval()
    vitrim.reduce_tokens(model, "tome", r=8)
    model.global_pool = "avg"
    with pytest.raises(ValueError, match=r"global_pool='avg'.*reduce_tokens"):
        model(images)
    again = vitrim.reduce_tokens(model, "tome", r=8)(images)
    assert torch.equal(vitrim.restore(model)(images), model(images))
    assert not torch.equal(again, model(images))
    vitrim.reduce_tokens(model, "evit-nofuse")  # what only drops patches has nothing to weigh
    model.global_pool = "token"
    vitrim.reduce_tokens(model, "evit-nofuse")
    model.global_pool = "avg"
    assert model(images).isfinite().all()


def last_tokens_before_pooling(model: VisionTransformer, images: Tensor) -> int:
    """Tokens that enter the last block."""
    counts: list[int] = []
    handle = model.blocks[-1].register_forward_pre_hook(lambda _, inputs: counts.append(inputs[0].shape[1]))
    model(images)
    handle.remove()
    return counts[0]


def two_kinds_of_patches() -> Tensor:
    """An image of 20 copies of one patch and 44 of another, in mixed order: 48 kept ones always hold both kinds."""
    generator = torch.Generator().manual_seed(3)
    kinds = torch.randn(2, 3 * 4 * 4, generator=generator, dtype=torch.float64)
    which = (torch.randperm(64, generator=generator) < 20).long()
    return nn.functional.fold(kinds[which].T.unsqueeze(0), (32, 32), 4, stride=4)
