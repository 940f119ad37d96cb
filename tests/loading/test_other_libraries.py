"""Models of torchvision, transformers and open_clip given to the commands by name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
import torchvision
import transformers
from commands import vitrim
from PIL import Image

from vitrim import count_macs, evaluate_folder, from_pretrained, reduce_tokens
from vitrim.heads import Logits
from vitrim.loading.build import build_model, load_model
from vitrim.measure.evaluate import evaluate

pytestmark = pytest.mark.usefixtures("small_models")


def photo() -> Image.Image:
    x = np.linspace(0, 255, 60 * 90 * 3).reshape(60, 90, 3)
    return Image.fromarray((127 + 120 * np.sin(x)).astype(np.uint8))


def test_a_folder_of_transformers_is_evaluated_with_and_without_reduction(
    vit: Path, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ("evaluate", "--model", f"transformers:{vit}", "--data", images, "--limit", 40)
    assert vitrim(*common) == 0
    assert vitrim(*common, "--method", "token_mergence", "--keep-rate", "0.5") == 0
    said = capsys.readouterr().out
    assert said.count("of 40 images") == 2

    model = load_model(f"transformers:{vit}")
    plain = transformers.ViTForImageClassification.from_pretrained(vit).eval()
    x_BCHW = torch.randn(2, 3, 32, 32)
    assert torch.equal(model(x_BCHW).logits, plain(x_BCHW).logits)
    assert f"top-1 {evaluate_folder(model, images, limit=40).top1:.2f} %" in said


def test_compare_runs_on_a_model_of_transformers(vit: Path, images: Path, tmp_path: Path) -> None:
    options = ("--methods", "evit", "--keep-rates", "0.5", "--limit", 20, "--rounds", 2, "--batch-size", 4)
    assert vitrim("compare", "--model", f"transformers:{vit}", "--data", images, *options, "--output", tmp_path) == 0
    assert (tmp_path / "report.html").is_file()


def test_torchvision_takes_a_checkpoint_and_another_resolution(tmp_path: Path) -> None:
    plain = torchvision.models.vit_b_32(weights=None)
    file = tmp_path / "weights.pth"
    torch.save(plain.state_dict(), file)
    model = load_model("torchvision:vit_b_32", file)
    x_BCHW = torch.randn(1, 3, 224, 224)
    assert torch.equal(model(x_BCHW), plain.eval()(x_BCHW))
    larger = load_model("torchvision:vit_b_32", file, img_size=288)
    reduce_tokens(larger, "evit", keep_rate=0.7)
    assert larger(torch.randn(1, 3, 288, 288)).shape == (1, 1000)


def test_a_tower_of_open_clip_is_measured_and_has_no_accuracy(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert vitrim("macs", "--model", "open_clip:tiny", "--methods", "tome", "--r", 2) == 0
    full = count_macs(build_model("open_clip:tiny"))
    assert f"{full / 1e9:.4f}" in capsys.readouterr().out
    with pytest.raises(ValueError, match="no classes"):
        evaluate_folder(build_model("open_clip:tiny"), images)


def test_a_folder_of_transformers_needs_no_prefix(vit: Path) -> None:
    one, other = load_model(f"transformers:{vit}").parameters(), load_model(str(vit)).parameters()
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert vitrim("macs", "--model", vit, "--methods", "tome", "--r", 2) == 0
    again = from_pretrained(vit).parameters()
    assert all(torch.equal(a, b) for a, b in zip(load_model(str(vit)).parameters(), again, strict=True))


def test_a_checkpoint_of_torchvision_brings_its_classes_and_whole_numbers_only_where_they_count(tmp_path: Path) -> None:
    name, file = "torchvision:shufflenet_v2_x0_5", tmp_path / "mine.pth"
    mine = torchvision.models.shufflenet_v2_x0_5(num_classes=10).state_dict()
    torch.save(mine, file)
    model = load_model(name, str(file))
    assert all(torch.equal(value, mine[key]) for key, value in model.state_dict().items())
    assert model.num_classes == 10
    torch.save({key: value.to(torch.int8) for key, value in mine.items()}, file)
    with pytest.raises(ValueError, match="floating-point"):
        load_model(name, file)


@pytest.mark.parametrize(("name", "embedding"), [("CLIPModel", "image_embeds"), ("SiglipModel", "pooler_output")])
def test_a_model_of_images_and_texts_is_taken_for_its_vision_tower(
    name: str, embedding: str, two_towers: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = two_towers / name
    capsys.readouterr()
    tower = load_model(f"transformers:{folder}")
    assert capsys.readouterr().err == ""  # weights of the text tower are left out on purpose
    whole = getattr(transformers, name).from_pretrained(folder).eval()
    x_BCHW = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        of_whole = whole.get_image_features(x_BCHW).pooler_output
        assert torch.allclose(getattr(tower(x_BCHW), embedding), of_whole, atol=1e-5)
        assert torch.allclose(Logits(tower)(x_BCHW), of_whole, atol=1e-5)  # what an exported graph returns
    assert vitrim("macs", "--model", f"transformers:{folder}", "--methods", "tome", "--r", 2) == 0
    with pytest.raises(ValueError, match="no classes"):
        evaluate_folder(tower, folder)


def test_a_head_that_was_exchanged_before_transformers_saved_the_model_counts_its_own_classes(
    vit: Path, tmp_path: Path
) -> None:
    model = transformers.ViTForImageClassification.from_pretrained(vit)
    model.classifier = torch.nn.Linear(32, 3)  # the usual way; config.num_labels stays at 10
    model.save_pretrained(tmp_path / "tuned")
    shutil.copy(vit / "preprocessor_config.json", tmp_path / "tuned")
    assert build_model(str(tmp_path / "tuned")).num_classes == 3
    tuned = load_model(str(tmp_path / "tuned"))
    assert (tuned.num_classes, tuned.config.num_labels) == (3, 3)
    assert torch.equal(tuned.classifier.weight, model.classifier.weight)


def test_keyword_arguments_of_the_forward_reach_the_model_that_is_evaluated(vit: Path, tmp_path: Path) -> None:
    model, folder = load_model(str(vit)), tmp_path / "images"
    pixels = np.random.default_rng(0).integers(0, 256, (10, 64, 64, 3), dtype=np.uint8)
    for i, each in enumerate(pixels):
        (folder / str(i)).mkdir(parents=True)
        Image.fromarray(each).save(folder / str(i) / "a.png")
    to_tensor = torchvision.transforms.ToTensor()
    x_BCHW = torch.stack([to_tensor(Image.fromarray(each)) for each in pixels])
    with torch.no_grad():
        right = model(x_BCHW, interpolate_pos_encoding=True).logits.argmax(dim=1) == torch.arange(10)
    batches = [(x_BCHW, torch.arange(10))]
    larger = {"interpolate_pos_encoding": True}  # the model is for images of 32 pixels
    assert evaluate(model, batches, **larger).top1 == 100 * right.double().mean()
    assert evaluate_folder(model, folder, transform=to_tensor, **larger).top1 == 100 * right.double().mean()
    with pytest.raises(ValueError, match=r"doesn't match model \(32"):
        evaluate(model, batches)


def test_a_pooler_that_is_missing_is_told_and_the_rest_is_read(tmp_path: Path, vit: Path) -> None:
    config = transformers.ViTConfig(**(json.loads((vit / "config.json").read_text()) | {"architectures": ["ViTModel"]}))
    transformers.ViTModel(config, add_pooling_layer=False).save_pretrained(tmp_path)
    shutil.copy(vit / "preprocessor_config.json", tmp_path)
    with pytest.warns(UserWarning, match=r"no weights for pooler.*random"):
        model = load_model(str(tmp_path))
    assert model.num_classes == 0


def test_a_model_is_built_for_the_size_of_its_weights() -> None:
    with torch.device("meta"):
        assert build_model("torchvision:vit_h_14").image_size == 518


def test_open_clip_takes_a_checkpoint_of_the_whole_or_of_the_tower_and_another_resolution(tmp_path: Path) -> None:
    whole = open_clip.create_model("tiny").eval()
    file, of_tower = tmp_path / "whole.pt", tmp_path / "tower.pt"
    torch.save(whole.state_dict(), file)
    torch.save(whole.visual.state_dict(), of_tower)
    x_BCHW = torch.randn(1, 3, 64, 64)
    for each in (file, of_tower):
        assert torch.equal(load_model("open_clip:tiny", each)(x_BCHW), whole.visual(x_BCHW))
    larger = open_clip.create_model("tiny", pretrained=str(file), force_image_size=96).eval()
    x_BCHW = torch.randn(1, 3, 96, 96)
    assert torch.equal(load_model("open_clip:tiny", file, img_size=96)(x_BCHW), larger.visual(x_BCHW))
