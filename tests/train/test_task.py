"""What a training step computes, compared with the formulas by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn.functional import one_hot

import vitrim
from library_models import HF, of_transformers
from token_labels import loss_of_output
from vitrim.backbones.reader import find_stack
from vitrim.core.listening import listeners_of
from vitrim.models.lvvit import LVViT
from vitrim.train import token_labeling as tl
from vitrim.train.task import ClassificationTask, TokenLabelingTask

B, K = 4, 10
TinyViT = Callable[..., VisionTransformer]


@pytest.fixture
def images() -> Tensor:
    return torch.randn(B, 3, 32, 32, generator=torch.Generator().manual_seed(1))


LABELS = torch.tensor([1, 0, 7, 1])


def soft_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    return -(target * (logits.exp() / logits.exp().sum(1, keepdim=True)).log()).sum(1).mean()


def small_lv(**more: float) -> LVViT:
    torch.manual_seed(0)
    size = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 4, "num_heads": 3, "num_classes": K}
    return LVViT(**size, stem_channels=8, **more)


def test_label_smoothing_spreads_over_all_classes(tiny_vit: TinyViT, images: Tensor) -> None:
    losses = ClassificationTask(tiny_vit(), label_smoothing=0.1)(images, LABELS)
    target = one_hot(LABELS, K) * 0.9 + 0.1 / K
    torch.testing.assert_close(losses.loss, soft_cross_entropy(losses.logits_BK, target))
    assert list(losses.parts) == ["class"]


def test_probabilities_are_not_smoothed_again(tiny_vit: TinyViT, images: Tensor) -> None:
    target = torch.rand(B, K, generator=torch.Generator().manual_seed(2)).softmax(1)
    losses = ClassificationTask(tiny_vit(), label_smoothing=0.1)(images, target)
    torch.testing.assert_close(losses.loss, soft_cross_entropy(losses.logits_BK, target))


@pytest.mark.parametrize("taught", [False, True])
def test_two_heads_in_distilled_training_learn_as_deits_do(images: Tensor, taught: bool) -> None:
    torch.manual_seed(0)
    size = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 3, "num_classes": K}
    model = VisionTransformerDistilled(**size)
    model.set_distilled_training()
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, K)) if taught else None
    more: Any = {"teacher": teacher, "distillation": "hard", "weight": 0.3} if taught else {}
    losses = ClassificationTask(model.train(), **more)(images, LABELS)
    cls_BK, distilled_BK = model(images)
    target = one_hot(LABELS, K).float()
    theirs = one_hot(teacher(images).argmax(1), K).float() if teacher is not None else target
    weight = 0.3 if taught else 0.5
    wanted = (1 - weight) * soft_cross_entropy(cls_BK, target) + weight * soft_cross_entropy(distilled_BK, theirs)
    torch.testing.assert_close(losses.loss, wanted)
    torch.testing.assert_close(losses.logits_BK, (cls_BK + distilled_BK) / 2)


def test_a_classifier_of_transformers_is_trained_by_its_logits(images: Tensor) -> None:
    model = vitrim.reduce_tokens(of_transformers("ViTForImageClassification", "ViTConfig", **HF, num_labels=K), "metr")
    losses = ClassificationTask(model.train())(images, LABELS)
    torch.testing.assert_close(losses.parts["class"], soft_cross_entropy(losses.logits_BK, one_hot(LABELS, K).float()))
    assert set(losses.parts) == {"class", "exits", "distillation"}


def test_what_is_no_classifier_is_refused(images: Tensor) -> None:
    with pytest.raises(ValueError, match=r"logits .* not \(4, 3, 32, 32\)"):
        ClassificationTask(nn.Identity())(images, LABELS)


@pytest.mark.parametrize("kind", ["soft", "hard"])
def test_distillation_is_the_formula(tiny_vit: TinyViT, images: Tensor, kind: str) -> None:
    torch.manual_seed(3)
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, K))
    task = ClassificationTask(tiny_vit(), teacher=teacher, distillation=kind, weight=0.3, temperature=2.0)
    losses = task(images, LABELS)
    with torch.no_grad():
        theirs = teacher(images)
    base = soft_cross_entropy(losses.logits_BK, one_hot(LABELS, K).float())
    if kind == "hard":
        wanted = soft_cross_entropy(losses.logits_BK, one_hot(theirs.argmax(1), K).float())
    else:
        p, q = (theirs / 2).softmax(1), (losses.logits_BK / 2).softmax(1)
        wanted = (p * (p / q).log()).sum(1).mean() * 4
    torch.testing.assert_close(losses.parts["teacher"], 0.3 * wanted)
    torch.testing.assert_close(losses.loss, 0.7 * base + 0.3 * wanted)


def test_the_teacher_is_frozen_and_no_part_of_what_is_trained_or_saved(tiny_vit: TinyViT, images: Tensor) -> None:
    teacher = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(3 * 32 * 32, K))
    task = ClassificationTask(tiny_vit(), teacher=teacher, distillation="soft").train()
    theirs = {id(parameter) for parameter in teacher.parameters()}
    assert not theirs & {id(parameter) for parameter in task.parameters()}
    assert all(key.startswith("model.") for key in task.state_dict())
    assert not teacher.training and not any(parameter.requires_grad for parameter in teacher.parameters())
    task.to(torch.float64)
    assert {parameter.dtype for parameter in teacher.parameters()} == {torch.float64}
    task(images.double(), LABELS).loss.backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_exits_add_their_losses_and_divergences(tiny_vit: TinyViT, images: Tensor) -> None:
    model = vitrim.reduce_tokens(tiny_vit(), vitrim.METR(method=vitrim.EViT(keep_rate=0.5)))
    task = ClassificationTask(model, label_smoothing=0.1)
    task.listen()
    losses = task(images, LABELS)
    exits: list[Tensor] = []
    heads = [model.blocks[i].weights.exit for i in (3, 6, 9)]
    hooks = [head.register_forward_hook(lambda _, __, output: exits.append(output)) for head in heads]
    model(images)
    target = one_hot(LABELS, K) * 0.9 + 0.1 / K
    final = losses.logits_BK.softmax(1)
    assert len(exits) == len(hooks) == 3
    wanted = 0.15 * sum(soft_cross_entropy(exit, target) for exit in exits)
    torch.testing.assert_close(losses.parts["exits"], wanted)
    apart = 0.15 * sum((final * (final.log() - exit.log_softmax(1))).sum(1).mean() for exit in exits)
    torch.testing.assert_close(losses.parts["distillation"], apart)
    torch.testing.assert_close(losses.loss, sum(losses.parts.values()))


def targets() -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(5)
    return torch.randn(B, K, generator=draw).softmax(-1), torch.randn(B, 16, K, generator=draw).softmax(-1)


@pytest.mark.parametrize("method", [None, vitrim.EViT(keep_rate=0.5), vitrim.EViT(keep_rate=0.5, fuse=False)])
def test_token_labeling_is_the_plain_functions(images: Tensor, method: vitrim.Method | None) -> None:
    model = small_lv()
    if method is not None:
        vitrim.reduce_tokens(model, method)
    task = TokenLabelingTask(model, dense_weight=0.5).train()
    task.listen()
    torch.manual_seed(6)  # of the box
    losses = task(images, targets())
    torch.manual_seed(6)
    found, outputs = find_stack(model), []
    if found is not None:
        found.stack.collect_outputs(outputs, traced=True)
    output = model(images)
    assert output[2].tolist() != [0, 0, 0, 0]
    wanted = loss_of_output(output, *targets(), (4, 4), outputs[0] if outputs else None, dense_weight=0.5)
    assert losses.parts == wanted
    torch.testing.assert_close(losses.loss, sum(wanted.values()))


def test_exits_learn_the_class_target_as_the_box_mixed_it(images: Tensor) -> None:
    model = vitrim.reduce_tokens(small_lv(), vitrim.METR(method=vitrim.EViT(keep_rate=0.5), distill_weight=0.0))
    task = TokenLabelingTask(model, dense_weight=1.0).train()
    task.listen()
    exits: list[Tensor] = []
    for i in (1, 2, 3):
        model.blocks[i].weights.exit.register_forward_hook(lambda _, __, output: exits.append(output))
    torch.manual_seed(6)
    losses = task(images, targets())
    torch.manual_seed(6)
    mixed, _ = tl.mix_box(*targets(), model(images)[2], (4, 4))
    assert not torch.equal(mixed, targets()[0])
    wanted = 0.15 * sum(soft_cross_entropy(exit, mixed) for exit in exits[:3])
    torch.testing.assert_close(losses.parts["exits"], wanted)
    assert list(losses.parts) == ["class", "dense", "exits", "distillation"]


def test_patches_are_followed_for_token_labeling_alone(tiny_vit: TinyViT) -> None:
    plain = ClassificationTask(vitrim.reduce_tokens(tiny_vit(), "evit", keep_rate=0.5))
    dense = TokenLabelingTask(vitrim.reduce_tokens(small_lv(), "evit", keep_rate=0.5), dense_weight=1)
    for task, traced in ((plain, False), (dense, True)):
        task.listen()
        assert task.stack is not None
        assert [listener.traced for listener in listeners_of(task.stack.spec)] == [traced]


@pytest.mark.parametrize("method", ["evit", "metr"])
def test_a_few_updates_lower_the_loss_of_token_labeling(images: Tensor, method: str) -> None:
    model = vitrim.reduce_tokens(small_lv(), method, keep_rate=0.7)
    task = TokenLabelingTask(model, dense_weight=0.5).train()
    task.listen()
    target = tl.image_targets(LABELS, K, 0.1)
    optimizer, losses = torch.optim.SGD(task.parameters(), lr=0.3), []
    model.mix_token = False  # so that the losses can be compared
    for _ in range(25):
        loss = task(images, (target, tl.repeated(target, 16))).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


def test_token_labeling_without_a_head_on_every_token_is_refused(tiny_vit: TinyViT) -> None:
    with pytest.raises(ValueError, match=r"head on every token.*VisionTransformer"):
        TokenLabelingTask(tiny_vit(), dense_weight=1.0)


@pytest.mark.parametrize("target", [[1, 2], None, 1])
def test_targets_of_another_kind_are_refused(tiny_vit: TinyViT, images: Tensor, target: Any) -> None:
    task = ClassificationTask(vitrim.reduce_tokens(tiny_vit(), "evit"))
    with pytest.raises(ValueError, match="targets"):
        task(images, target)
