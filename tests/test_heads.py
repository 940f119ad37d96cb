"""How many classes a model tells apart is asked of its head, also of one that was put in place of the first."""

from __future__ import annotations

import copy

import pytest
import torch
from PIL import Image
from timm.models.vision_transformer import VisionTransformer
from torch import nn

import library_models as lm
import vitrim
from vitrim.backbones.reader import find_stack, read_backbone
from vitrim.heads import num_classes
from vitrim.measure.folder import num_classes_of

LABELS = torch.tensor([3, 9])


class Cosine(nn.Module):
    """A head of one's own, which says nothing of its width."""

    def __init__(self, channels, classes):
        super().__init__()
        self.directions = nn.Parameter(torch.randn(channels, classes))

    def forward(self, x):
        return nn.functional.normalize(x, dim=-1) @ nn.functional.normalize(self.directions, dim=0)


class Words(nn.Module):
    def forward(self, x):
        return "cat"


def vit(**settings):
    torch.manual_seed(0)
    return VisionTransformer(img_size=32, patch_size=8, embed_dim=48, depth=4, num_heads=3, **settings).eval()


def exchanged(head):
    model = vit()
    model.head = head
    return model


def images():
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


HEADS = {
    "linear": lambda: nn.Linear(48, 10),
    "with dropout": lambda: nn.Sequential(nn.Dropout(0.1), nn.Linear(48, 10)),
    "an MLP": lambda: nn.Sequential(nn.Linear(48, 24), nn.BatchNorm1d(24), nn.GELU(), nn.Linear(24, 10), nn.Tanh()),
    "its own": lambda: Cosine(48, 10),
}


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
def test_an_exchanged_head_says_how_many_classes_there_are(head):
    model = exchanged(head().train())
    modes = [part.training for part in model.modules()]
    before = copy.deepcopy(model.state_dict())
    assert num_classes_of(model) == read_backbone(model).spec.num_classes == 10
    assert [part.training for part in model.modules()] == modes
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_a_head_that_cannot_tell_is_refused():
    model = exchanged(Words())
    assert num_classes(model) is None
    with pytest.raises(ValueError, match="how many classes"):
        num_classes_of(model)
    with pytest.raises(ValueError, match="head of your own"):
        vitrim.reduce_tokens(model, "metr")
    with pytest.raises(ValueError, match="no classes"):
        num_classes_of(exchanged(nn.Identity()))


@pytest.mark.parametrize(
    ("make", "attribute", "channels"),
    [
        (lm.torchvision_vit, "heads", 48),
        (lambda: lm.of_transformers("ViTForImageClassification", "ViTConfig", **lm.HF), "classifier", 48),
        (lambda: lm.of_transformers("Dinov2ForImageClassification", "Dinov2Config", **lm.DINO), "classifier", 96),
    ],
    ids=["torchvision", "transformers", "two vectors"],
)
@pytest.mark.parametrize("head", [lambda c: nn.Linear(c, 7), lambda c: Cosine(c, 7)], ids=["linear", "its own"])
def test_heads_of_other_libraries_are_asked_too(make, attribute, channels, head):
    model = make().eval()
    setattr(model, attribute, head(channels))
    assert num_classes_of(model) == read_backbone(model).spec.num_classes == 7
    vitrim.reduce_tokens(model, "metr", keep_rate=0.5)
    assert vitrim.anytime(model, threshold=0.0)(images()).shape == (2, 7)


def test_exits_follow_the_head_in_training_and_at_inference():
    model = vitrim.reduce_tokens(exchanged(nn.Linear(48, 10)), "metr", keep_rate=0.5)
    assert vitrim.anytime(model, threshold=0.0)(images()).shape == (2, 10)
    assert vitrim.ClassificationTask(model.train())(images(), LABELS).loss.isfinite()


def test_a_head_that_is_exchanged_after_the_exits_were_made_is_noticed():
    model = vitrim.reduce_tokens(vit(), "metr", keep_rate=0.5)
    model.head = nn.Linear(48, 10)
    with pytest.raises(ValueError, match=r"1000 classes.* 10\b"):
        vitrim.anytime(model)
    with pytest.raises(ValueError, match=r"1000 classes.* 10\b"):
        vitrim.ClassificationTask(model.train())(images(), LABELS)


def test_a_folder_is_read_with_the_classes_of_the_head(tmp_path):
    for name in "abcdefghij":
        (tmp_path / name).mkdir()
        Image.new("RGB", (32, 32)).save(tmp_path / name / "1.png")
    assert vitrim.evaluate_folder(exchanged(nn.Linear(48, 10)), tmp_path).num_images == 10


def test_anytime_takes_the_logits_of_transformers_output():
    model = lm.of_transformers("ViTForImageClassification", "ViTConfig", **lm.HF, num_labels=10).eval()
    vitrim.reduce_tokens(model, "metr", keep_rate=0.5)
    with torch.no_grad():
        for threshold in (0.0, 2.0):
            assert vitrim.anytime(model, threshold)(images()).shape == (2, 10)
        assert torch.equal(vitrim.anytime(model, 2.0)(images()), model(images()).logits)


def test_what_a_stack_knows_of_an_exchanged_head_stays_in_copies():
    model = copy.deepcopy(vitrim.reduce_tokens(exchanged(nn.Linear(48, 10)), "metr", keep_rate=0.5))
    assert find_stack(model).stack.spec.num_classes == 10
