"""Token labeling: targets from label maps, the loss, and both when tokens are fewer."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import vitrim
from token_labels import loss_of_output
from vitrim.backbones.reader import find_stack
from vitrim.core.tokens import Tokens
from vitrim.models.lvvit import LVViT
from vitrim.models.mix_token import box_mask, swap_box
from vitrim.train import token_labeling as tl

B, K, GRID, P = 4, 5, (4, 4), 16
BOX = torch.tensor([1, 0, 3, 3])
NO_BOX = torch.zeros(4, dtype=torch.long)


def small(**more: float) -> LVViT:
    torch.manual_seed(0)
    size = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 4, "num_heads": 3, "num_classes": K}
    return LVViT(**size, stem_channels=8, return_dense=True, **more).double()


@pytest.fixture
def targets() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    draw = [torch.randn(*shape, K, generator=generator, dtype=torch.float64) for shape in ((B,), (B, P))]
    return draw[0].softmax(-1), draw[1].softmax(-1)


@pytest.fixture
def images() -> Tensor:
    return torch.randn(B, 3, 32, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    return -(target * logits.log_softmax(-1)).sum(-1).mean()


def test_mixed_targets_give_the_loss_of_pasted_back_outputs(images: Tensor, targets: tuple[Tensor, Tensor]) -> None:
    """The official form: outputs go back to their images, whose targets stay; the class target by area."""
    model, (target, patches) = small().train(), targets
    cls, aux, box = model(images, BOX)
    pasted, share = swap_box(aux, box_mask(BOX, GRID)), 6 / 16
    parts = loss_of_output((cls, aux, box), target, patches, GRID, dense_weight=0.5)
    torch.testing.assert_close(parts["dense"], 0.5 * cross_entropy(pasted, patches))
    mixed = (1 - share) * target + share * target.flip(0)
    torch.testing.assert_close(parts["class"], cross_entropy(cls, mixed))
    assert (cross_entropy(aux, patches) - cross_entropy(pasted, patches)).abs() > 1e-4


def test_image_labels_under_a_box_are_the_partners_inside_it() -> None:
    target = torch.eye(4, K, dtype=torch.float64)
    _, patches = tl.mix_box(target, tl.repeated(target, P), BOX, GRID)
    labels = patches.argmax(-1).view(4, 4, 4)
    assert (labels[0, 1:3, 0:3] == 3).all()
    assert int((labels[0] == 0).sum()) == P - 6


def test_targets_of_reduced_tokens_are_the_mean_of_their_patches() -> None:
    target = torch.eye(4, dtype=torch.float64).expand(2, 4, 4)
    source = torch.tensor([[1, 2, 2, 1], [2, -1, 2, 2]])  # one prefix token; the second image's first token holds none
    reduced = tl.reduced_targets(target, source, num_tokens=2, num_prefix=1)
    assert reduced[0].tolist() == [[0.5, 0, 0, 0.5], [0, 0.5, 0.5, 0]]
    torch.testing.assert_close(reduced[1, 1], torch.tensor([1, 0, 1, 1], dtype=torch.float64) / 3)
    assert reduced[1, 0].tolist() == [0, 0, 0, 0]


def test_targets_in_bf16_count_more_patches_than_bf16_can() -> None:
    target = torch.zeros(1, 600, 2, dtype=torch.bfloat16)
    target[:, :, 0] = 1
    reduced = tl.reduced_targets(target, torch.ones(1, 600, dtype=torch.long), num_tokens=1, num_prefix=1)
    assert reduced.dtype == torch.bfloat16
    assert reduced.tolist() == [[[1.0, 0.0]]]


def test_tokens_without_patches_have_no_term() -> None:
    torch.manual_seed(0)
    cls, aux = torch.randn(2, K), torch.randn(2, 3, K)
    target = torch.randn(2, 3, K).softmax(-1)
    target[1, 2] = 0
    parts = tl.token_labeling_loss(cls, aux, target[:, 0], target, dense_weight=1.0)
    five = [cross_entropy(aux[b, n], target[b, n]) for b, n in ((0, 0), (0, 1), (0, 2), (1, 0), (1, 1))]
    torch.testing.assert_close(parts["dense"], torch.stack(five).mean())


def test_half_precision_outputs_give_a_loss_in_fp32() -> None:
    parts = tl.token_labeling_loss(
        torch.randn(2, K).bfloat16(), torch.randn(2, 3, K).bfloat16(), torch.rand(2, K), torch.rand(2, 3, K)
    )
    assert {part.dtype for part in parts.values()} == {torch.float32}


def published(model: LVViT, images: Tensor, box: Tensor) -> tuple[tuple[Tensor, Tensor, Tensor], Tokens]:
    outputs: list[Tokens] = []
    found = find_stack(model)
    assert found is not None
    found.stack.collect_outputs(outputs, traced=True)
    output = model(images, box)
    found.stack.collect_outputs(None)
    return output, outputs[0]


def test_a_method_that_keeps_everything_changes_no_term(images: Tensor, targets: tuple[Tensor, Tensor]) -> None:
    plain = loss_of_output(small().train()(images, BOX), *targets, GRID)
    output, tokens = published(vitrim.reduce_tokens(small().train(), vitrim.EViT(keep_rate=1.0)), images, BOX)
    assert loss_of_output(output, *targets, GRID, tokens) == plain


@pytest.mark.parametrize("fuse", [True, False])
def test_reduced_outputs_meet_the_targets_of_the_patches_they_hold(
    images: Tensor, targets: tuple[Tensor, Tensor], fuse: bool
) -> None:
    model = vitrim.reduce_tokens(small().train(), vitrim.EViT(keep_rate=0.5, fuse=fuse, layers=[1]))
    (cls, aux, box), tokens = published(model, images, BOX)
    assert aux.shape == (B, 8 + fuse, K)
    target, patches = tl.mix_box(*targets, BOX, GRID)
    wanted = []
    for b in range(B):
        for n in range(8 + fuse):
            held = [p for p in range(P) if tokens.source_BP[b, p] == n + 1]
            assert len(held) == (8 if n == 8 else 1)
            wanted.append(cross_entropy(aux[b, n], patches[b, held].mean(0)))
    parts = loss_of_output((cls, aux, box), *targets, GRID, tokens)
    torch.testing.assert_close(parts["dense"], torch.stack(wanted).mean())
    torch.testing.assert_close(parts["class"], cross_entropy(cls, target))


def test_reduced_outputs_without_sources_are_refused(images: Tensor, targets: tuple[Tensor, Tensor]) -> None:
    output = vitrim.reduce_tokens(small().train(), vitrim.EViT(keep_rate=0.5))(images)
    with pytest.raises(ValueError, match=r"reduced|traced"):
        loss_of_output(output, *targets, GRID)


def test_a_grid_that_does_not_fit_the_targets_is_refused(images: Tensor, targets: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(ValueError, match=r"3 x 3.* 9 .*16"):
        loss_of_output(small().train()(images), *targets, (3, 3))


@pytest.mark.parametrize("fuse", [True, False])
def test_a_few_steps_lower_the_loss_and_every_weight_gets_a_gradient(images: Tensor, fuse: bool) -> None:
    model = vitrim.reduce_tokens(small().train(), vitrim.EViT(keep_rate=0.7, fuse=fuse))
    target = tl.image_targets(torch.arange(B), K, 0.1).double()
    optimizer, losses = torch.optim.SGD(model.parameters(), lr=0.3), []
    for _ in range(30):
        output, tokens = published(model, images, NO_BOX)
        loss = sum(loss_of_output(output, target, tl.repeated(target, P), GRID, tokens).values())
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


def test_a_crop_of_a_label_map_holds_what_lies_there() -> None:
    """Left half class 1, right half class 2; a mirrored crop of the right three quarters."""
    maps = torch.zeros(2, 2, 1, 18, 18)
    maps[:, 0] = 20.0
    maps[:, 1, 0, :, :9], maps[:, 1, 0, :, 9:] = 1, 2
    crop = torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.25, 0.0, 0.75, 1.0]])
    target, patches = tl.label_map_targets(maps, crop, K, (2, 6), flip_B=torch.tensor([False, True]))
    assert target.shape == (2, K)
    assert patches.argmax(-1).view(2, 2, 6).tolist() == [[[1, 1, 1, 2, 2, 2]] * 2, [[2, 2, 2, 2, 1, 1]] * 2]
    torch.testing.assert_close(patches.sum(-1), torch.ones(2, 12))


def test_maps_of_another_data_set_are_refused() -> None:
    maps = torch.full((1, 2, 1, 18, 18), 700.0)
    with pytest.raises(ValueError, match=r"class 700.* 10"):
        tl.label_map_targets(maps, torch.tensor([[0.0, 0.0, 1.0, 1.0]]), 10, GRID)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_label_maps_are_read_as_released(tmp_path: Path, suffix: str) -> None:
    maps, image = torch.rand(2, 5, 18, 18).half(), Path("n01440764") / "n01440764_1.JPEG"
    path = (tmp_path / image).with_suffix(suffix)
    path.parent.mkdir()
    if suffix == ".pt":
        torch.save(maps, path)
    else:
        save_file({"map": maps}, path)
    assert tl.find_label_map(tmp_path, image) == path
    assert torch.equal(tl.read_label_map(path), maps.float())


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path("executed"),)


def test_label_maps_that_are_none_are_refused_and_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.pt").write_bytes(pickle.dumps(Evil()))
    torch.save(torch.rand(5, 18, 18), tmp_path / "flat.pt")
    torch.save({"a": torch.rand(2)}, tmp_path / "dict.pt")
    save_file({"a": torch.rand(2), "b": torch.rand(2)}, tmp_path / "two.safetensors")
    wanted = {"evil.pt": "cannot be read", "flat.pt": "label map", "dict.pt": "dict"}
    for name, message in {**wanted, "two.safetensors": "cannot be read", "map.npy": r"\.safetensors"}.items():
        with pytest.raises(ValueError, match=message):
            tl.read_label_map(tmp_path / name)
    assert not (tmp_path / "executed").exists()
    with pytest.raises(FileNotFoundError, match=r"missing.JPEG.*label map"):
        tl.find_label_map(tmp_path, Path("missing.JPEG"))
