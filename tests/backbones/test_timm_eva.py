"""What is read from timm's Eva class: DINOv3, EVA, EVA02, Perception Encoder and the ViTs with rotary positions."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import timm
import torch
from timm.models.eva import Eva
from torch import nn

import vitrim
from library_models import images, scrambled
from vitrim.backbones.reader import find_stack, read_backbone

SMALL = {"img_size": 32, "patch_size": 4, "embed_dim": 48, "depth": 4, "num_heads": 3, "num_classes": 10}
ROTARY = {"use_rot_pos_emb": True, "global_pool": "token"}
DINOV3 = ROTARY | {"attn_type": "rope", "rope_type": "dinov3", "rope_rotate_half": True, "use_abs_pos_emb": False}
# name, prefix tokens, has a class token, head reads the patches, patches
NAMED = [
    ("vit_small_patch16_dinov3", 5, True, True, 256),
    ("eva02_tiny_patch14_224", 1, True, True, 256),
    ("eva02_base_patch16_clip_224", 1, True, False, 196),
    ("eva_giant_patch14_224", 1, True, True, 256),
    ("vit_medium_patch16_rope_reg1_gap_256", 1, False, True, 256),
    ("vit_pe_core_base_patch16_224", 1, True, True, 196),
    ("vit_small_patch16_rope_mixed_224", 1, True, False, 196),
]


def eva(**settings: Any) -> Any:
    return scrambled(Eva(**(SMALL | DINOV3 | settings)))


@pytest.mark.parametrize(("name", "num_prefix", "has_cls", "pools_patches", "num_patches"), NAMED)
@torch.no_grad()
def test_named_models_are_read_and_keep_their_bits_where_nothing_is_reduced(
    name: str, num_prefix: int, has_cls: bool, pools_patches: bool, num_patches: int
) -> None:
    model = scrambled(timm.create_model(name, depth=2, embed_dim=48, num_heads=3))
    spec = read_backbone(model).spec
    assert (spec.num_prefix, spec.has_cls, spec.pools_patches) == (num_prefix, has_cls, pools_patches)
    assert (spec.num_patches, spec.depth, spec.channels, spec.num_heads) == (num_patches, 2, 48, 3)
    x = torch.randn(1, *model.pretrained_cfg["input_size"], generator=torch.Generator().manual_seed(1))
    wanted = model(x)
    assert torch.equal(vitrim.reduce_tokens(model, "tome", r=0)(x), wanted)
    assert not torch.allclose(vitrim.reduce_tokens(model, "tome", r=20)(x), wanted)


@pytest.mark.parametrize(
    "settings",
    [
        {"use_post_norm": True},
        {"attn_type": "eva", "qkv_fused": True, "rope_rotate_half": False, "rope_type": "cat"},
        {"qkv_fused": False, "num_kv_heads": 1, "qk_norm": True, "swiglu_mlp": True},
        {"use_rot_pos_emb": False, "use_abs_pos_emb": True},
        {"global_pool": "map", "class_token": False, "num_reg_tokens": 2},
    ],
    ids=["post_norm", "fused_bias", "shared_keys", "no_rotations", "attention_pool"],
)
@torch.no_grad()
def test_every_kind_of_block_keeps_its_bits_where_nothing_is_reduced(settings: dict[str, Any]) -> None:
    model = eva(**settings)
    wanted = model(images())
    assert torch.equal(vitrim.reduce_tokens(model, "tome", r=0)(images()), wanted)
    assert not torch.allclose(vitrim.reduce_tokens(model, "tome", r=9)(images()), wanted)


@pytest.mark.parametrize(
    "settings",
    [
        {"rope_shift_coords": 0.5, "rope_jitter_coords": 1.5, "rope_rescale_coords": 2.0},
        {"patch_drop_rate": 0.5},
        {"patch_drop_rate": 0.5, "rope_type": "mixed", "rope_rotate_half": False},
    ],
    ids=["augmented", "patch_dropout", "patch_dropout_mixed"],
)
def test_rotations_that_differ_in_training_are_followed(settings: dict[str, Any]) -> None:
    model = eva(**settings).train()
    torch.manual_seed(7)
    wanted = model(images())
    vitrim.reduce_tokens(model, "evit", keep_rate=1.0)
    torch.manual_seed(7)
    assert torch.equal(model(images()), wanted)
    vitrim.reduce_tokens(model, "evit", keep_rate=0.5)(images()).square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.blocks.parameters())


@torch.no_grad()
def test_any_resolution_works() -> None:
    model, x = eva(dynamic_img_size=True), torch.randn(2, 3, 24, 40)
    wanted = model(x)
    assert torch.equal(vitrim.reduce_tokens(model, "evit", keep_rate=1.0)(x), wanted)
    vitrim.reduce_tokens(model, "evit-nofuse", keep_rate=0.5, layers=(0,))
    assert model.forward_features(x).shape[1] == 1 + 30
    assert model.forward_features(images()).shape[1] == 1 + 32


def test_patches_can_be_traced_and_methods_solved_for() -> None:
    model = eva(num_reg_tokens=4)
    method = vitrim.method_for_macs(model, "evit", gmacs=0.006)
    vitrim.reduce_tokens(model, method)
    with vitrim.trace(model) as trace:
        model(images())
    assert trace.grid == (8, 8)


@pytest.mark.parametrize("settings", [{}, {"rope_type": "mixed", "rope_rotate_half": False}], ids=["shared", "mixed"])
@pytest.mark.parametrize("name", ["evit", "tome"])
def test_an_exported_model_equals_the_eager_one_at_any_batch_size(name: str, settings: dict[str, Any]) -> None:
    amount = {"r": 3} if name == "tome" else {"keep_rate": 0.5, "layers": (0,)}
    model = vitrim.reduce_tokens(eva(**settings, depth=2), name, **amount)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        batch = torch.export.Dim("batch", min=1, max=64)
        program = torch.export.export(model, (images(),), dynamic_shapes=({0: batch},)).module()
    for num_images in (1, 3):
        torch.testing.assert_close(program(images(num_images)), model(images(num_images)), atol=1e-5, rtol=1e-5)


@pytest.mark.slow
@torch.no_grad()
def test_a_reduced_model_compiles_to_one_graph() -> None:
    model = vitrim.reduce_tokens(eva(), "evit", keep_rate=0.5)
    compiled = torch.compile(model, fullgraph=True)
    torch.testing.assert_close(compiled(images()), model(images()), atol=1e-5, rtol=1e-5)


def test_masks_and_walks_over_the_blocks_are_refused() -> None:
    model = vitrim.reduce_tokens(eva(), "evit")
    with pytest.raises(ValueError, match="attention mask"):
        model(images(), attn_mask=torch.ones(65, 65, dtype=torch.bool))
    with pytest.raises(ValueError, match="attention mask"):
        model(images(), is_causal=True)
    with pytest.raises(RuntimeError, match=r"forward_intermediates\(\).*vitrim.features\(model, images"):
        model.forward_intermediates(images())
    assert len(vitrim.restore(model).forward_intermediates(images(), intermediates_only=True)) == 4


def test_a_block_that_turns_otherwise_is_refused() -> None:
    model = eva()
    original = model.blocks[2].forward
    model.blocks[2].forward = lambda x, rope=None, **masks: original(x, rope=rope.roll(1, dims=0), **masks)
    with pytest.raises(vitrim.UnsupportedModel, match=r"block 2 \(EvaBlock, timm \d.*wrongly"):
        vitrim.reduce_tokens(model, "evit")
    assert find_stack(model) is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda block: setattr(block.attn, "gate", nn.Linear(48, 48)), "block 1 .*gated"),
        (
            lambda block: setattr(block, "attn", nn.Identity()),
            "block 1 .*Identity",
        ),
    ],
    ids=["gate", "class"],
)
def test_attentions_that_cannot_be_read_are_refused(change: Any, reason: str) -> None:
    model = eva()
    change(model.blocks[1])
    with pytest.raises(vitrim.UnsupportedModel, match=reason):
        vitrim.reduce_tokens(model, "evit")


def test_blocks_that_share_keys_unequally_are_refused() -> None:
    model = eva(qkv_fused=False, num_kv_heads=(3, 1, 1, 3))
    with pytest.raises(vitrim.UnsupportedModel, match="heads share keys and values"):
        vitrim.reduce_tokens(model, "evit")


@torch.no_grad()
def test_early_exits_work_with_rotations() -> None:
    model = vitrim.reduce_tokens(eva(depth=6), vitrim.METR(method=vitrim.EViT(keep_rate=0.5)))
    x = images(4)
    wanted = copy.deepcopy(model)(x)
    anytime = vitrim.anytime(model, threshold=2.0)  # nobody is that sure
    torch.testing.assert_close(anytime(x), wanted)
    some = vitrim.anytime(model, threshold=sorted(anytime.all_logits(x)[0].softmax(dim=1).amax(dim=1))[2].item())
    logits, exits_B = some.predict(x)
    assert len(set(exits_B.tolist())) > 1
    last = exits_B == exits_B.max()
    if exits_B.max() == len(some.exits):
        torch.testing.assert_close(logits[last], wanted[last])
