"""Agreement of early class attention with the last block: the statistics, unchanged models, and DeiT-Tiny."""

from __future__ import annotations

import copy
import math

import pytest
import torch

import vitrim
from conformance.families import FAMILIES, NO_CLASS_TOKEN, small_images, small_model
from vitrim.class_attention import rank_correlation, ranks, top_overlap
from vitrim.cli import app
from vitrim.core.listening import listeners_of


def batches(family="vit", num_images=4):
    images = small_images(family, num_images)
    return [(images, torch.zeros(num_images, dtype=torch.long))]


def slow_ranks(values):
    return [sum(b < a for b in values) + (sum(b == a for b in values) + 1) / 2 for a in values]


def slow_correlation(a, b):
    a, b = slow_ranks(a), slow_ranks(b)
    mean = (len(a) + 1) / 2
    cov = sum((x - mean) * (y - mean) for x, y in zip(a, b, strict=True))
    return cov / math.sqrt(sum((x - mean) ** 2 for x in a) * sum((y - mean) ** 2 for y in b))


def test_ranks_by_hand():
    assert ranks(torch.tensor([[0.3, 0.1, 0.3, 0.9]])).tolist() == [[2.5, 1.0, 2.5, 4.0]]


def test_correlation_by_hand():
    a = torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0]])
    assert rank_correlation(a, torch.tensor([[2.0, 1.0, 4.0, 3.0, 5.0]])).item() == pytest.approx(0.8)  # 1-6*4/(5*24)
    assert rank_correlation(a, a.exp()).item() == 1
    assert rank_correlation(a, -a).item() == -1
    assert rank_correlation(a, torch.ones(1, 5)).item() == 0


def test_correlation_with_ties_against_a_slow_one():
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randint(0, 6, (7, 12), generator=generator).float() for _ in range(2))
    wanted = [slow_correlation(x, y) for x, y in zip(a.tolist(), b.tolist(), strict=True)]
    assert rank_correlation(a, b).tolist() == pytest.approx(wanted)


def test_overlap_by_hand():
    a, b = torch.tensor([[4.0, 3.0, 2.0, 1.0]]), torch.tensor([[4.0, 1.0, 3.0, 2.0]])
    assert [top_overlap(a, b, rate).item() for rate in (0.25, 0.5, 0.75, 1.0)] == pytest.approx([1, 0.5, 2 / 3, 1])
    assert top_overlap(torch.ones(1, 4), torch.tensor([[9.0, 8.0, 1.0, 2.0]]), 0.5).item() == 1  # ties: lower index


def test_unrelated_rows_agree_by_chance_alone():
    generator = torch.Generator().manual_seed(0)
    a, b = torch.rand(2, 300, 196, generator=generator)
    assert rank_correlation(a, b).mean().abs() < 0.02  # its standard error is 0.004
    assert top_overlap(a, b, 0.3).mean().item() == pytest.approx(59 / 196, abs=0.01)


@pytest.mark.parametrize("family", [family for family in FAMILIES if family not in NO_CLASS_TOKEN])
def test_every_family_has_a_row_per_block_and_the_last_agrees_with_itself(family):
    rows = vitrim.cls_quality(small_model(family), batches(family))
    assert [row.layer for row in rows] == [0, 1, 2, 3, 4]
    assert (rows[-1].rank_correlation, rows[-1].overlaps) == (1, (1, 1, 1))
    assert all(row.num_images == 4 and abs(row.rank_correlation) < 1 for row in rows[:-1])


def test_rows_are_the_attention_of_the_model_with_all_its_tokens():
    model, data = small_model("vit"), batches(num_images=3)
    found: list[torch.Tensor] = []

    def listen(attn, args):
        B, N, C = args[0].shape
        q, k, _ = attn.qkv(args[0]).view(B, N, 3, 3, C // 3).permute(2, 0, 3, 1, 4)
        found.append((q @ k.mT * attn.scale).softmax(dim=-1).mean(dim=1)[:, 0, 1:])

    handles = [block.attn.register_forward_pre_hook(listen) for block in model.blocks]
    with torch.inference_mode():
        model(data[0][0])
    for handle in handles:
        handle.remove()
    for row in vitrim.cls_quality(model, data):
        each = rank_correlation(found[row.layer], found[-1])
        assert row.rank_correlation == pytest.approx(each.mean().item(), abs=1e-3)
        assert row.rank_correlation_error == pytest.approx(each.std().item() / math.sqrt(3), abs=1e-3)
        assert row.overlaps[1] == pytest.approx(top_overlap(found[row.layer], found[-1], 0.5).mean().item(), abs=0.02)


def test_batches_only_group_the_images():
    images = small_images("vit", 6)
    labels = torch.zeros(6, dtype=torch.long)
    whole = vitrim.cls_quality(small_model("vit"), [(images, labels)])
    parts = vitrim.cls_quality(small_model("vit"), [(images[:4], labels[:4]), (images[4:], labels[4:])])
    for one, other in zip(whole, parts, strict=True):
        assert one.rank_correlation == pytest.approx(other.rank_correlation, abs=1e-3)
    assert math.isnan(vitrim.cls_quality(small_model("vit"), [(images[:1], labels[:1])])[0].rank_correlation_error)


@pytest.mark.parametrize("fails", [False, True])
def test_the_model_is_left_as_it_was(fails):
    model, images = small_model("vit"), small_images("vit")
    plain = copy.deepcopy(model)(images)
    vitrim.reduce_tokens(model, vitrim.METR(method=vitrim.EViT(keep_rate=0.5)))
    model.train()
    model.blocks[1].eval()
    stack, keys = model.blocks, list(model.state_dict())
    bad = [(torch.zeros(1, 3, 5, 5), torch.zeros(1, dtype=torch.long))] if fails else batches()
    if fails:
        with pytest.raises(AssertionError):  # timm's, about the size of the image
            vitrim.cls_quality(model, bad)
    else:
        vitrim.cls_quality(model, bad)
    assert model.blocks is stack and list(model.state_dict()) == keys
    assert [block.training for block in model.blocks] == [True, False, True, True, True] and model.training
    assert listeners_of(stack.spec) == ()
    assert torch.equal(vitrim.restore(model.eval())(images), plain)


def test_reduction_does_not_change_what_is_measured():
    plain = vitrim.cls_quality(small_model("vit"), batches())
    assert vitrim.cls_quality(vitrim.reduce_tokens(small_model("vit"), "evit", keep_rate=0.3), batches()) == plain


def test_errors():
    with pytest.raises(ValueError, match="no class token"):
        vitrim.cls_quality(small_model("gap"), batches())
    with pytest.raises(ValueError, match="no image"):
        vitrim.cls_quality(small_model("vit"), [])
    with pytest.raises(ValueError, match=r"keep rate.*1.5"):
        vitrim.cls_quality(small_model("vit"), batches(), keep_rates=(1.5,))


def test_the_command_on_deit_tiny(deit_checkpoint, imagenet_val, tmp_path, capsys):
    out = tmp_path / "rows.csv"
    args = ["deit_tiny_patch16_224", "--checkpoint", deit_checkpoint, "--images", imagenet_val, "--limit", 16]
    with pytest.raises(SystemExit) as end:
        app(["cls-quality", *map(str, args), "--output", str(out)])
    assert end.value.code == 0
    assert "16 images" in capsys.readouterr().out
    header, *lines = (line.split(",") for line in out.read_text().splitlines())
    assert header[:3] == ["block", "rank_correlation", "rank_correlation_error"] and len(lines) == 12
    assert lines[-1][1] == "1.0" and all(abs(float(line[1])) < 1 for line in lines[:-1])
    assert float(lines[9][1]) > float(lines[0][1])  # a trained model's late attention is nearer to its last
