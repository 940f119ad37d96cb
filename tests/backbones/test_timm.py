"""What is read from timm's models: the facts, and the models themselves by their names."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import timm
import torch
from timm.models.vision_transformer import ResPostBlock, VisionTransformer

import vitrim
from vitrim.backbones.reader import read_backbone

# name, prefix tokens, has a class token, head reads the patches, patches
NAMED = [  # a model without classes hands its patches to code that may pool them
    ("deit_tiny_patch16_224", 1, True, False, 196),
    ("deit_tiny_distilled_patch16_224", 2, True, False, 196),
    ("deit3_small_patch16_224", 1, True, False, 196),
    ("vit_small_patch14_dinov2", 1, True, True, 1369),
    ("vit_small_patch14_reg4_dinov2", 5, True, True, 1369),
    ("vit_base_patch32_clip_224", 1, True, False, 49),
    ("vit_base_patch16_siglip_224", 0, False, True, 196),
    ("vit_base_patch16_siglip_gap_224", 0, False, True, 196),
    ("vit_medium_patch16_reg4_gap_256", 4, False, True, 256),
    ("vit_small_patch16_224", 1, True, False, 196),
]


@pytest.mark.parametrize(("name", "num_prefix", "has_cls", "pools_patches", "num_patches"), NAMED)
def test_the_facts_about_a_model_are_read(
    name: str, num_prefix: int, has_cls: bool, pools_patches: bool, num_patches: int
) -> None:
    model = timm.create_model(name, depth=2, embed_dim=48, num_heads=3)
    spec = read_backbone(model).spec
    assert (spec.num_prefix, spec.has_cls, spec.pools_patches) == (num_prefix, has_cls, pools_patches)
    assert (spec.num_patches, spec.depth, spec.channels, spec.num_heads) == (num_patches, 2, 48, 3)


def test_the_linear_layers_of_a_block_are_counted(tiny_vit: Callable[..., VisionTransformer]) -> None:
    spec = read_backbone(tiny_vit()).spec
    assert spec.attention_macs == 48 * 3 * 48 + 48 * 48
    assert spec.mlp_macs == 2 * 4 * 48 * 48
    assert spec.attention_channels == 48


def test_a_model_made_by_name_carries_that_name() -> None:
    model = timm.create_model("deit_tiny_patch16_224", depth=4)
    assert read_backbone(model).spec.name == "deit_tiny_patch16_224"


def test_a_real_model_runs_at_its_own_size_with_the_papers_token_counts() -> None:
    model = vitrim.reduce_tokens(timm.create_model("deit_tiny_patch16_224"), "evit", keep_rate=0.7).eval()
    counts: list[int] = []
    for block in model.blocks:
        block.mlp.register_forward_hook(lambda _, __, out: counts.append(out.shape[1]))
    with torch.inference_mode():
        model(torch.randn(1, 3, 224, 224))
    assert counts == [197] * 3 + [140] * 3 + [100] * 3 + [72] * 3


@pytest.mark.parametrize("size", [(16, 16), (32, 32), (64, 48), (20, 36)])
def test_any_resolution_keeps_its_share_of_patches(
    tiny_vit: Callable[..., VisionTransformer], size: tuple[int, int]
) -> None:
    model = vitrim.reduce_tokens(tiny_vit(dynamic_img_size=True), "evit-nofuse", keep_rate=0.5, layers=(0,))
    features = model.forward_features(torch.randn(1, 3, *size))
    num_patches = size[0] // 4 * (size[1] // 4)
    assert features.shape[1] == 1 + (num_patches + 1) // 2


def test_a_resolution_set_later_works(tiny_vit: Callable[..., VisionTransformer]) -> None:
    model = vitrim.reduce_tokens(tiny_vit(), "evit-nofuse", keep_rate=0.5, layers=(0,))
    model.set_input_size(img_size=(48, 48))
    assert model.forward_features(torch.randn(1, 3, 48, 48)).shape[1] == 1 + 72


def test_a_fixed_r_that_does_not_fit_a_smaller_image_raises_in_the_forward(
    tiny_vit: Callable[..., VisionTransformer],
) -> None:
    model = vitrim.reduce_tokens(tiny_vit(dynamic_img_size=True), "tome", r=4)
    with pytest.raises(ValueError, match=r"r = 4 in block 3 .*4 patches"):
        model(torch.randn(1, 3, 16, 16))


def test_patch_dropout_in_training_works_with_a_keep_rate(tiny_vit: Callable[..., VisionTransformer]) -> None:
    model = vitrim.reduce_tokens(tiny_vit(patch_drop_rate=0.5), "evit").train()
    model(torch.randn(2, 3, 32, 32)).sum().backward()


def test_post_norm_blocks_have_their_own_reader(tiny_vit: Callable[..., VisionTransformer]) -> None:
    plain, post = read_backbone(tiny_vit()), read_backbone(tiny_vit(block_fn=ResPostBlock))
    assert {type(reader) for reader in plain.readers} != {type(reader) for reader in post.readers}


def test_gated_attention_is_refused(tiny_vit: Callable[..., VisionTransformer]) -> None:
    model = tiny_vit()
    model.blocks[2].attn.gate = torch.nn.Linear(48, 48)
    with pytest.raises(vitrim.UnsupportedModel, match=r"block 2 .*gated"):
        vitrim.reduce_tokens(model, "evit")


def test_another_attention_class_is_refused_by_name(tiny_vit: Callable[..., VisionTransformer]) -> None:
    class Sparse(type(tiny_vit().blocks[0].attn)):  # type: ignore[misc]
        pass

    model = tiny_vit(attn_layer=Sparse)
    with pytest.raises(vitrim.UnsupportedModel, match=r"block 0 .*Sparse"):
        vitrim.reduce_tokens(model, "evit")


def test_query_key_norm_reaches_the_scores(tiny_vit: Callable[..., VisionTransformer]) -> None:
    model = tiny_vit(qk_norm=True)
    reader, block = read_backbone(model).readers[0], model.blocks[0]
    x_BNC = torch.randn(2, 65, 48)
    qkv = block.attn.qkv(block.norm1(x_BNC)).reshape(2, 65, 3, 3, 16).permute(2, 0, 3, 1, 4)
    attention = reader.attention(block, reader.enter(block, x_BNC))
    torch.testing.assert_close(attention.q_BHND, block.attn.q_norm(qkv[0]))
    torch.testing.assert_close(attention.k_BHND, block.attn.k_norm(qkv[1]))
    torch.testing.assert_close(attention.v_BHND, qkv[2])


def test_a_head_dimension_of_its_own_is_read(tiny_vit: Callable[..., VisionTransformer]) -> None:
    from timm.layers import Attention

    model, images = tiny_vit(), torch.randn(2, 3, 32, 32)
    for block in model.blocks:
        block.attn = Attention(48, num_heads=3, attn_head_dim=8, qkv_bias=True)
    wanted = model.eval()(images)
    assert read_backbone(model).spec.attention_channels == 24
    assert torch.equal(vitrim.reduce_tokens(model, "tome", r=0)(images), wanted)
    assert vitrim.reduce_tokens(model, "tome", r=3)(images).isfinite().all()


def test_reentrant_checkpointing_is_refused(tiny_vit: Callable[..., VisionTransformer]) -> None:
    from timm.layers import set_reentrant_ckpt

    model, images = vitrim.reduce_tokens(tiny_vit(), "evit").train(), torch.randn(2, 3, 32, 32)
    model.set_grad_checkpointing()
    set_reentrant_ckpt(True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns first that it sees no tensor among the inputs
            with pytest.raises(ValueError, match=r"use_reentrant=False"):
                model(images)
    finally:
        set_reentrant_ckpt(False)
    model(images).sum().backward()
