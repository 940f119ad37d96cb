"""LV-ViT as a model of its own: sizes, what timm's users expect of a model, MixToken."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.optim import param_groups_layer_decay

import vitrim
from vitrim.loading.build import build_model
from vitrim.measure.macs import count_macs
from vitrim.models.lvvit import LVViT
from vitrim.models.mix_token import box_around, box_mask, draw_box, swap_box

SMALL: dict[str, Any] = {
    "img_size": 32,
    "patch_size": 8,
    "embed_dim": 24,
    "depth": 4,
    "num_heads": 3,
    "num_classes": 5,
    "stem_channels": 8,
}


def small(**more: Any) -> LVViT:
    torch.manual_seed(0)
    return LVViT(**(SMALL | more)).eval()


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))


# The paper's Table 1 and the release's README; the release leaves the 0.4 M of the second head out for S.
@pytest.mark.parametrize(
    ("name", "depth", "params", "gmacs"),
    [("tiny", 12, 8.53, 2.87), ("small", 16, 26.15, 6.55), ("medium", 20, 55.83, 12.68)],
)
def test_parameters_and_macs_are_the_published_ones(name: str, depth: int, params: float, gmacs: float) -> None:
    with torch.device("meta"):
        model = build_model(f"lvvit_{name}")
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(params, abs=0.005)
    assert count_macs(model) / 1e9 == pytest.approx(gmacs, rel=0.002)
    assert len(model.blocks) == depth


def test_the_papers_macs_of_the_medium_model_are_those_of_a_wider_stem() -> None:
    with torch.device("meta"):
        model = build_model("lvvit_medium", stem_channels=128)
    assert count_macs(model) / 1e9 == pytest.approx(16.0, rel=0.005)
    assert sum(p.numel() for p in model.parameters()) / 1e6 > 58  # and not the 55.8 M that the paper gives beside it


def test_the_logits_are_the_class_tokens_plus_half_the_best_patchs(images: torch.Tensor) -> None:
    model = small()
    features = model.forward_features(images)
    best = model.aux_head(features[:, 1:]).max(dim=1).values
    assert torch.equal(model(images), model.head(features[:, 0]) + 0.5 * best)
    assert torch.equal(model.forward_head(features, pre_logits=True), features[:, 0])


def test_training_gives_plain_logits_unless_the_dense_output_is_asked_for(images: torch.Tensor) -> None:
    model = small().train()
    assert model(images).shape == (4, 5)
    model.return_dense = True
    cls, aux, box = model(images)
    assert (cls.shape, aux.shape, box.shape) == ((4, 5), (4, 16, 5), (4,))
    assert model.eval()(images).shape == (4, 5)


def test_a_box_without_dense_output_is_refused(images: torch.Tensor) -> None:
    box = torch.tensor([0, 0, 2, 2])
    with pytest.raises(ValueError, match=r"training mode.*return_dense"):
        small()(images, box)
    with pytest.raises(ValueError, match=r"training mode.*return_dense"):
        small(return_dense=True)(images, box)


def test_mixtoken_swaps_patches_before_the_blocks(images: torch.Tensor) -> None:
    """A box over the whole grid hands each image its partner's patches, and positions stay."""
    model = small(return_dense=True)
    model.train()
    model.patch_embed.eval()
    whole, none = torch.tensor([0, 0, 4, 4]), torch.zeros(4, dtype=torch.long)
    for mixed, plain in zip(model(images, whole)[:2], model(images.flip(0), none)[:2], strict=True):
        torch.testing.assert_close(mixed, plain)
    part = model(images, torch.tensor([1, 0, 3, 2]))[0]
    assert not torch.allclose(part, model(images, none)[0])


def test_without_mix_token_the_box_is_empty(images: torch.Tensor) -> None:
    model = small(return_dense=True, mix_token=False).train()
    assert model(images)[2].tolist() == [0, 0, 0, 0]


def test_boxes_are_drawn_from_torchs_generator_and_cover_what_they_say() -> None:
    def boxes() -> list[list[int]]:
        generator = torch.Generator().manual_seed(3)
        return [draw_box((6, 9), generator).tolist() for _ in range(200)]

    drawn = boxes()
    assert drawn == boxes()
    assert all(0 <= a <= c <= 6 and 0 <= b <= d <= 9 for a, b, c, d in drawn)
    assert len({tuple(box) for box in drawn}) > 50
    inside = [(c - a) * (d - b) for a, b, c, d in drawn]
    assert [int(box_mask(torch.tensor(box), (6, 9)).sum()) for box in drawn] == inside


def test_rows_come_first_in_a_box() -> None:
    lam, row, column = (torch.tensor(value, dtype=torch.float64) for value in (0.5, 3.0, 1.0))
    box = box_around(lam, row, column, (6, 6))
    assert box.tolist() == [1, 0, 5, 3]  # half a side is int(6 * sqrt(0.5)) // 2 = 2
    mask = box_mask(box, (6, 6)).view(6, 6)
    assert mask[1:5, 0:3].all()
    assert int(mask.sum()) == 12


def test_swapping_twice_gives_the_same_back() -> None:
    x, mask = torch.randn(3, 6, 2), torch.tensor([True, False, True, True, False, False])
    assert torch.equal(swap_box(swap_box(x, mask), mask), x)
    assert torch.equal(swap_box(x, mask)[0, 2], x[2, 2])


def test_the_forward_with_mixtoken_compiles_whole(images: torch.Tensor) -> None:
    model = small(return_dense=True).train()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    boxes = {tuple(compiled(images)[2].tolist()) for _ in range(8)}
    assert len(boxes) > 1  # drawn anew in each call


def test_a_checkpoint_is_loaded_by_name_with_all_its_keys(tmp_path: Path) -> None:
    torch.manual_seed(3)
    own = timm.create_model("lvvit_tiny").state_dict()
    state = {key: torch.randn_like(value) if value.is_floating_point() else value for key, value in own.items()}
    save_file(state, tmp_path / "weights.safetensors")
    model = vitrim.load_model("lvvit_tiny", tmp_path / "weights.safetensors")
    assert torch.equal(model.state_dict()["aux_head.weight"], state["aux_head.weight"])
    larger = vitrim.load_model("lvvit_tiny", tmp_path / "weights.safetensors", img_size=256)
    assert larger.state_dict()["pos_embed"].shape == (1, 257, 240)
    assert torch.equal(larger.state_dict()["pos_embed"][:, 0], state["pos_embed"][:, 0])


def test_a_checkpoint_with_a_key_too_few_is_refused(tmp_path: Path) -> None:
    state = timm.create_model("lvvit_tiny").state_dict()
    del state["aux_head.weight"]
    save_file(state, tmp_path / "weights.safetensors")
    with pytest.raises(ValueError, match=r"1 missing \(aux_head.weight\)"):
        vitrim.load_model("lvvit_tiny", tmp_path / "weights.safetensors")


def test_another_input_size_resamples_the_positions(images: torch.Tensor) -> None:
    model = small()
    before = model(images)
    with pytest.raises(ValueError, match=r"32 x 32.*48 x 64"):
        model(torch.randn(1, 3, 48, 64))
    model.set_input_size((48, 64))
    assert model.pos_embed.shape == (1, 49, 24)
    assert model(torch.randn(1, 3, 48, 64)).shape == (1, 5)
    with pytest.raises(ValueError, match="patch size 8"):
        model.set_input_size(30)
    model = small()
    model.set_input_size(32)
    assert torch.equal(model(images), before)


def test_the_classifier_can_be_replaced(images: torch.Tensor) -> None:
    model = small()
    assert model.get_classifier() == (model.head, model.aux_head)
    model.reset_classifier(7)
    assert model(images).shape == (4, 7)
    model.reset_classifier(0)
    assert torch.equal(model(images), model.forward_features(images)[:, 0])
    with pytest.raises(ValueError, match=r"global_pool.*'token'"):
        model.reset_classifier(7, "avg")


def test_timm_builds_it_with_its_usual_arguments() -> None:
    model = timm.create_model("lvvit_tiny", num_classes=3, drop_path_rate=0.2, in_chans=1, img_size=64, depth=3)
    assert (model.num_classes, model.num_features, model.num_prefix_tokens) == (3, 240, 1)
    assert [block.drop_path.drop_prob for block in model.blocks] == pytest.approx([0.0, 0.1, 0.2])
    assert model.eval()(torch.randn(1, 1, 64, 64)).shape == (1, 3)
    with pytest.raises(ValueError, match="features_only"):
        timm.create_model("lvvit_tiny", features_only=True)


def test_layer_decay_sees_the_layers() -> None:
    model = small()
    groups = param_groups_layer_decay(model, 0.05, no_weight_decay_list=model.no_weight_decay(), layer_decay=0.5)
    scale = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    assert scale[id(model.head.weight)] == scale[id(model.aux_head.weight)] == 1
    assert scale[id(model.blocks[1].norm1.weight)] == 2 * scale[id(model.blocks[0].norm1.weight)]
    assert scale[id(model.patch_embed.conv1.weight)] == scale[id(model.pos_embed)] == min(scale.values())
    assert decay[id(model.pos_embed)] == decay[id(model.cls_token)] == 0 < decay[id(model.patch_embed.conv1.weight)]


def test_gradient_checkpointing_changes_no_gradient(images: torch.Tensor) -> None:
    def gradient(enable: bool) -> torch.Tensor:
        model = small().train()
        model.set_grad_checkpointing(enable)
        model(images).square().sum().backward()
        return model.blocks[0].attn.qkv.weight.grad

    torch.testing.assert_close(gradient(True), gradient(False))


def test_copies_and_pickles_compute_the_same(images: torch.Tensor) -> None:
    model = small()
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other(images), model(images))
