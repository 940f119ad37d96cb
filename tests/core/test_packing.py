"""Images with different numbers of tokens in one batch: packed without padding, and the same as each alone."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer

import vitrim
from operations import FUSED, Operations
from vitrim.core import ops, packing
from vitrim.core.attention import Attention
from vitrim.core.selection import fuse_where, keep_where
from vitrim.core.tokens import Tokens
from vitrim.testing import leaving_blocks

LENGTHS = (3, 5, 1)


def tokens_of(num_images=3, num_patches=6, **settings):
    x_BNC = torch.randn(num_images, 2 + num_patches, 4, generator=torch.Generator().manual_seed(0)).double()
    return Tokens(x_BNC, num_prefix=2, **settings)


def flags(*rows):
    return torch.tensor([[mark == "x" for mark in row] for row in rows])


KEPT = flags("x..x..", "xxxxxx", ".....x")


def test_padding_and_packing_undo_each_other():
    rows_TC = torch.randn(9, 4)
    padded = packing.pad(rows_TC, LENGTHS)
    assert padded.shape == (3, 5, 4)
    assert torch.equal(packing.pack(padded, LENGTHS), rows_TC)
    assert torch.equal(padded[0, :3], rows_TC[:3]) and torch.equal(padded[2, 0], rows_TC[8])
    assert not padded[~packing.live(LENGTHS, padded.device)].any()


def test_each_image_keeps_its_own_patches_in_their_order():
    tokens = tokens_of()
    out = keep_where(tokens, KEPT)
    assert out.num_tokens_B == (4, 8, 3)
    assert out.x_BNC.shape == (1, 15, 4)
    assert torch.equal(out.padded_BNC[0, :4], tokens.x_BNC[0, [0, 1, 2, 5]])
    assert torch.equal(out.padded_BNC[1], tokens.x_BNC[1])
    assert torch.equal(out.first_BC, tokens.x_BNC[:, 0])


def test_images_that_keep_equal_numbers_are_not_packed():
    tokens = tokens_of()
    assert keep_where(tokens, torch.ones(3, 6, dtype=torch.bool)) is tokens
    out = keep_where(tokens, flags("xx....", "..xx..", "....xx"))
    assert out.lengths is None and out.x_BNC.shape == (3, 4, 4)
    packed = keep_where(tokens, KEPT)
    again = keep_where(packed, flags("x.....", "....x.", "xxxxxx"))  # what it says of padding does not matter
    assert again.lengths is None and torch.equal(again.x_BNC[1, 2], tokens.x_BNC[1, 6])


def test_the_rest_of_each_image_becomes_its_weighted_mean():
    weight_BN = torch.rand(3, 6, generator=torch.Generator().manual_seed(1)).double()
    tokens = tokens_of(traced=True, size_BN=torch.ones(3, 8).double())
    out = fuse_where(tokens, KEPT, weight_BN)
    assert out.num_tokens_B == (5, 8, 4)  # the second keeps all and gets no token more
    share_N = torch.where(KEPT[0], 0.0, weight_BN[0]) / torch.where(KEPT[0], 0.0, weight_BN[0]).sum()
    torch.testing.assert_close(out.padded_BNC[0, 4], share_N @ tokens.patches_BNC[0])
    assert ops.patch_sizes(out)[0].tolist() == [1, 1, 4, 0, 0, 0]
    assert out.source_BP[0].tolist() == [2, 4, 4, 3, 4, 4]
    torch.testing.assert_close(out.weight_BP[0], torch.where(KEPT[0], 1.0, share_N))
    for i in range(3):
        alone = fuse_where(ops.select_images(tokens, torch.tensor([i])), KEPT[i : i + 1], weight_BN[i : i + 1])
        picked = ops.select_images(out, torch.tensor([i]))
        assert alone.lengths is None and picked.lengths is None
        for field in ("x_BNC", "size_BN", "source_BP", "weight_BP") if i != 1 else ("x_BNC", "size_BN"):
            torch.testing.assert_close(getattr(picked, field), getattr(alone, field), atol=1e-12, rtol=0)


def test_positions_go_along_and_what_is_fused_stands_nowhere():
    tokens = tokens_of(uses_rope=True)
    once = fuse_where(tokens, KEPT, torch.ones(3, 6))
    assert once.position_BK.tolist() == [[0, 3, -1, -1, -1, -1], [0, 1, 2, 3, 4, 5], [5, -1, -1, -1, -1, -1]]
    twice = keep_where(once, flags(".xx...", "xx..x.", "x....."))
    assert twice.position_BK.tolist() == [[3, -1, -1], [0, 1, 4], [5, -1, -1]]
    assert ops.select_images(twice, torch.tensor([2, 0])).position_BK.tolist() == [[5, -1], [3, -1]]


def test_some_images_go_on():
    out = ops.select_images(keep_where(tokens_of(), KEPT), torch.tensor([2, 1]))
    assert out.lengths == (3, 8)
    assert torch.equal(out.first_BC, tokens_of().x_BNC[[2, 1], 0])


def test_attention_of_packed_tokens_is_that_of_each_image():
    q, k, v = torch.randn(3, 1, 2, 9, 4, generator=torch.Generator().manual_seed(0)).double()
    bias = torch.randn(1, 1, 1, 9).double()
    packed = Attention(q, k, v, 0.5, bias, lengths=LENGTHS)
    start = 0
    for i, n in enumerate(LENGTHS):
        own = slice(start, start + n)
        image = Attention(q[:, :, own], k[:, :, own], v[:, :, own], 0.5, bias[..., own])
        torch.testing.assert_close(packed.output()[:, :, own], image.output(), atol=1e-12, rtol=0)
        for row in ("cls_row", "received"):
            told = getattr(packed, row)()[i]
            torch.testing.assert_close(told, F.pad(getattr(image, row)()[0], (0, 5 - n)), atol=1e-12, rtol=0)
        start += n


def test_each_image_has_a_fused_kernel_of_its_own_and_no_square_matrix():
    model = vitrim.reduce_tokens(small_vit(), vitrim.AttentionMass(mass=0.6))
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1)).double()
    lengths = packs(model, images)
    assert len(set(lengths)) > 1
    with torch.no_grad(), Operations() as operations:
        model(images)
    per_image = [shape[2] for shape in operations.named(FUSED) if len(shape) == 4][-len(lengths) :]
    assert sorted(per_image) == sorted(lengths)
    assert [made for made in operations.made if made[1][-2:] in {(n, n) for n in lengths}] == []


def small_vit(**settings):
    torch.manual_seed(0)
    sizes = {"img_size": 32, "patch_size": 4, "embed_dim": 48, "depth": 4, "num_heads": 3, "num_classes": 10}
    model = VisionTransformer(**(sizes | settings)).double()
    with torch.no_grad():  # else attention would be uniform, and all images would keep the same number
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model


def packs(model, images):
    """What the last block but one lets out."""
    with leaving_blocks(model) as seen:
        model(images)
    return seen[-2].lengths


def test_gradients_are_the_sum_of_those_of_each_image():
    model = vitrim.reduce_tokens(small_vit(), vitrim.AttentionMass(mass=0.6)).train()
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1)).double()
    assert packs(model, images) is not None
    model(images).square().sum().backward()
    together = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    for image in images:
        model(image.unsqueeze(0)).square().sum().backward()
    for parameter, wanted in zip(model.parameters(), together, strict=True):
        torch.testing.assert_close(parameter.grad, wanted, atol=1e-9, rtol=1e-9)


def test_drop_path_drops_branches_of_single_images_of_a_packed_batch():
    model = vitrim.reduce_tokens(small_vit(drop_path_rate=0.5), vitrim.AttentionMass(mass=0.6)).train()
    images = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(1)).double()
    block = model.blocks[3].block
    seen = []
    block.drop_path2.register_forward_hook(lambda _, __, out: seen.append(out.flatten(1).abs().amax(dim=1) > 0))
    assert packs(model, images) is not None
    assert seen and seen[0].shape == (6,) and seen[0].any() and not seen[0].all()


@pytest.mark.slow
def test_compiling_says_in_one_line_that_it_cannot_be():
    model = vitrim.reduce_tokens(small_vit(), vitrim.AttentionMass(mass=0.6)).eval()
    with pytest.raises(RuntimeError, match=r"per image.*compiled"):
        torch.compile(model, backend="eager")(torch.randn(2, 3, 32, 32).double())


def test_exporting_says_in_one_line_that_it_cannot_be():
    model = vitrim.reduce_tokens(small_vit(), vitrim.AttentionMass(mass=0.6)).eval()
    with pytest.raises(ValueError, match=r"per image.*(compiled|exported)"):
        torch.export.export(model, (torch.randn(2, 3, 32, 32).double(),))
