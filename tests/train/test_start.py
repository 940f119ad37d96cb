"""The model that a recipe starts from: whose weights, for which classes, at which resolution."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.data import ImageNetInfo
from torch import Tensor, nn

import vitrim
from vitrim.core.notice import VitrimWarning
from vitrim.loading.libraries import resample_positions
from vitrim.models import lvvit, multiscale  # noqa: F401  (they register their models)
from vitrim.train.recipe import Recipe
from vitrim.train.start import start_model, start_teacher

TINY = {"img_size": 32, "patch_size": 4, "embed_dim": 24, "depth": 4, "num_heads": 3}
CLASSES = ("cat", "dog", "owl")
KNOWN = ("n01440764", "n02102040", "n03888257")  # rows of ImageNet's classifier that are not the first three
EXIT = "blocks.1.method.exit.3.weight"


def build(name: str, num_classes: int = 1000, **settings: Any) -> nn.Module:
    """A tiny model of that name, every weight drawn."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model = timm.create_model(name, num_classes=num_classes, **TINY | settings).eval()
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Saved tiny models, for recipes to name as their model."""
    place = tmp_path_factory.mktemp("models")
    vitrim.save_pretrained(build("vit_tiny_patch16_224"), place / "vit")
    vitrim.save_pretrained(build("mf_deit_tiny_patch16_224", 3, fusion_layer=1), place / "mf")
    vitrim.save_pretrained(build("lvvit_tiny", patch_size=8, stem_channels=8), place / "lvvit")
    reduced = vitrim.reduce_tokens(build("vit_tiny_patch16_224"), "metr", keep_rate=0.5)
    vitrim.save_pretrained(reduced, place / "metr")
    learned = vitrim.BeyondAttentive(inattentive="conv", keep_rate=0.5)
    vitrim.save_pretrained(vitrim.reduce_tokens(build("vit_tiny_patch16_224", 3), learned), place / "conv")
    return place


def recipe(folder: Path, model: str = "vit", checkpoint: str | None = "vit", **more: Any) -> Recipe:
    return Recipe(
        model=str(folder / model), checkpoint=None if checkpoint is None else str(folder / checkpoint), **more
    )


def weights(folder: Path, name: str) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / name / "model.safetensors")


def test_without_a_checkpoint_weights_are_random(folder: Path) -> None:
    model, said = start_model(recipe(folder, checkpoint=None), CLASSES)
    assert said == "random weights"
    assert model.training
    assert not torch.equal(model.state_dict()["norm.weight"], weights(folder, "vit")["norm.weight"])


def test_other_classes_get_a_new_head(folder: Path) -> None:
    model, said = start_model(recipe(folder), CLASSES)
    own, theirs = model.state_dict(), weights(folder, "vit")
    assert said.endswith("a new head")
    assert own["head.weight"].shape == (3, 24)
    assert all(torch.equal(own[key], theirs[key]) for key in own if not key.startswith("head."))


def test_imagenet_classes_keep_their_rows(folder: Path) -> None:
    model, said = start_model(recipe(folder), KNOWN)
    names = ImageNetInfo("imagenet-1k").label_names()
    rows = [names.index(name) for name in KNOWN]
    assert rows != [0, 1, 2]
    assert said.endswith("its head's rows for these classes")
    assert torch.equal(model.state_dict()["head.weight"], weights(folder, "vit")["head.weight"][rows])
    assert torch.equal(model.state_dict()["head.bias"], weights(folder, "vit")["head.bias"][rows])


@pytest.mark.parametrize("classes", [KNOWN, None])
def test_a_new_head_is_new_whatever_the_classes(folder: Path, classes: tuple[str, ...] | None) -> None:
    """Also where the checkpoint has as many classes, which may be others."""
    torch.manual_seed(4)
    wanted = recipe(folder, head="new", num_classes=None if classes else 1000)
    model, said = start_model(wanted, classes or CLASSES)
    assert said.endswith("a new head")
    theirs = weights(folder, "vit")["head.weight"]
    assert not any(torch.equal(row, other) for row in model.state_dict()["head.weight"][:1] for other in theirs)


def test_another_resolution_resamples_the_positions(folder: Path) -> None:
    model, _ = start_model(recipe(folder, img_size=48), KNOWN)
    state = resample_positions(build("vit_tiny_patch16_224", img_size=48), weights(folder, "vit"))
    assert torch.equal(model.state_dict()["pos_embed"], state["pos_embed"])
    assert model(torch.rand(1, 3, 48, 48)).shape == (1, 3)


def test_a_checkpoint_of_another_resolution_says_what_differs(folder: Path, tmp_path: Path) -> None:
    vitrim.save_pretrained(build("vit_tiny_patch16_224", img_size=48), tmp_path / "large")
    with pytest.raises(ValueError, match=r"pos_embed.*1x145x24.*1x65x24"):
        start_model(recipe(folder, checkpoint=str(tmp_path / "large")), KNOWN)


def test_exits_are_new_where_the_checkpoint_has_none(folder: Path) -> None:
    model, said = start_model(recipe(folder, method="metr", settings={"keep_rate": 0.5}), KNOWN)
    assert "new weights of the method" in said
    assert model.state_dict()[EXIT].shape == (3, 24)


def test_exits_are_taken_over_with_the_rows_of_the_classes(folder: Path) -> None:
    model, said = start_model(recipe(folder, checkpoint="metr", method="metr", settings={"keep_rate": 0.7}), KNOWN)
    names = ImageNetInfo("imagenet-1k").label_names()
    rows = [names.index(name) for name in KNOWN]
    own, theirs = model.state_dict(), weights(folder, "metr")
    assert "new" not in said
    assert torch.equal(own[EXIT], theirs[EXIT][rows])
    hidden = EXIT.replace("3.weight", "1.weight")
    assert torch.equal(own[hidden], theirs[hidden])


def test_exits_are_left_out_by_a_method_without_them(folder: Path) -> None:
    model, said = start_model(recipe(folder, checkpoint="metr", method="evit"), KNOWN)
    assert EXIT not in model.state_dict()
    assert "new weights" not in said


def test_what_a_method_learned_goes_on(folder: Path) -> None:
    settings = {"inattentive": "conv", "keep_rate": 0.5}
    model, said = start_model(recipe(folder, checkpoint="conv", method="beyond_attentive", settings=settings), CLASSES)
    key = "blocks.2.method.conv.weight"
    assert torch.equal(model.state_dict()[key], weights(folder, "conv")[key])
    assert said == f"weights of {folder / 'conv'}"


def test_a_plain_deit_starts_a_multi_scale_model(folder: Path) -> None:
    model, _ = start_model(recipe(folder, model="mf", method="token_mergence"), KNOWN)
    own, theirs = model.state_dict(), weights(folder, "vit")
    assert torch.equal(own["blocks.3.mlp.fc1.weight"], theirs["blocks.3.mlp.fc1.weight"])
    assert torch.equal(own["cls_token_low"], theirs["cls_token"])
    assert own["head.weight"].shape == (3, 24)
    assert model.eval()(torch.rand(1, 3, 32, 32)).shape == (1, 3)


def test_both_heads_of_an_lvvit_follow_the_classes(folder: Path) -> None:
    model, _ = start_model(recipe(folder, model="lvvit", checkpoint="lvvit", method="evit"), KNOWN)
    own, theirs = model.state_dict(), weights(folder, "lvvit")
    row = ImageNetInfo("imagenet-1k").label_names().index(KNOWN[2])
    for head in ("head.weight", "aux_head.weight"):
        assert torch.equal(own[head][2], theirs[head][row])


def test_a_file_of_weights_and_a_checkpoint_of_a_run_start_too(folder: Path, tmp_path: Path) -> None:
    save_file(weights(folder, "vit"), tmp_path / "vit.safetensors")
    (tmp_path / "step-00000001").mkdir()
    save_file(weights(folder, "vit"), tmp_path / "step-00000001" / "model.safetensors")
    for name in ("vit.safetensors", "step-00000001"):
        model, _ = start_model(recipe(folder, checkpoint=str(tmp_path / name)), KNOWN)
        assert torch.equal(model.state_dict()["norm.bias"], weights(folder, "vit")["norm.bias"])


def test_a_checkpoint_of_another_model_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"not a checkpoint.*missing"):
        start_model(recipe(folder, checkpoint="lvvit"), KNOWN)
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        start_model(recipe(folder, checkpoint="nowhere"), KNOWN)


@pytest.mark.parametrize("model", ["vit", "lvvit"])
@pytest.mark.parametrize("field", ["drop_path", "dropout"])
def test_drops_act_in_training_and_through_the_reduction(folder: Path, model: str, field: str) -> None:
    torch.manual_seed(0)
    images = torch.rand(8, 3, 32, 32)
    for rate, differs in ((0.5, True), (0.0, False)):
        wanted = recipe(folder, model=model, checkpoint=model, method="evit", settings={"keep_rate": 1.0})
        net, _ = start_model(replace(wanted, **{field: rate}), KNOWN)
        assert torch.equal(net(images), net(images)) != differs
        net.eval()
        assert torch.equal(net(images), net(images))


def teacher(folder: Path, name: str, **more: Any) -> Recipe:
    return recipe(
        folder, teacher=str(folder / name), teacher_checkpoint=str(folder / name), distillation="soft", **more
    )


def test_a_teacher_knows_the_classes_of_the_data(folder: Path) -> None:
    wanted = teacher(folder, "metr", method="evit")
    student, _ = start_model(wanted, KNOWN)
    with pytest.warns(VitrimWarning, match="saved with"):
        found = start_teacher(wanted, KNOWN, student)
    assert found is not None
    row = ImageNetInfo("imagenet-1k").label_names().index(KNOWN[1])
    assert torch.equal(found.state_dict()["head.weight"][1], weights(folder, "metr")["head.weight"][row])
    assert vitrim.restore(found) is found and EXIT not in found.state_dict()


def test_a_teacher_of_other_classes_is_refused(folder: Path) -> None:
    wanted = teacher(folder, "metr", head="new")
    student, _ = start_model(wanted, CLASSES)
    said = pytest.warns(VitrimWarning, match="saved with")
    with said, pytest.raises(ValueError, match="3 classes"):
        start_teacher(wanted, CLASSES, student)


def test_a_teacher_of_images_normalised_otherwise_is_refused(folder: Path) -> None:
    wanted = teacher(folder, "mf", head="new")
    student, _ = start_model(wanted, CLASSES)
    assert student.pretrained_cfg["mean"] != (0.485, 0.456, 0.406)  # the tiny ViT's is 0.5
    with pytest.raises(ValueError, match=r"images.*mean"):
        start_teacher(wanted, CLASSES, student)


def test_a_convolutional_teacher_takes_any_size(folder: Path, tmp_path: Path) -> None:
    net = timm.create_model("resnet18", num_classes=3)
    save_file(net.state_dict(), tmp_path / "resnet.safetensors")
    wanted = recipe(
        folder, checkpoint=None, model="lvvit", img_size=48, distillation="hard", teacher="resnet18"
    ).override({"teacher_checkpoint": str(tmp_path / "resnet.safetensors")})
    student, _ = start_model(wanted, CLASSES)
    found = start_teacher(wanted, CLASSES, student)
    assert found is not None
    assert found(torch.rand(2, 3, 48, 48)).shape == (2, 3)
