"""Models of torchvision, transformers and open_clip given to the commands by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
import transformers
from PIL import Image

from vitrim import count_macs, evaluate_folder, reduce_tokens
from vitrim.cli import app
from vitrim.load import build_model, load_model
from vitrim.measure.evaluate import eval_transform
from vitrim.models.embedded import demo_images


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as transformers saves it: a tiny ViT of ten classes and its image processor."""
    folder = tmp_path_factory.mktemp("transformers") / "vit"
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=32, num_hidden_layers=4, num_attention_heads=2, intermediate_size=64, image_size=32, patch_size=8
    )
    config.num_labels = 10
    transformers.ViTForImageClassification(config).save_pretrained(folder)
    transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return demo_images(tmp_path_factory.mktemp("images") / "fashion")


def vitrim(*arguments: object) -> int:
    with pytest.raises(SystemExit) as stopped:
        app([str(argument) for argument in arguments])
    return int(stopped.value.code or 0)


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


def test_images_are_prepared_as_the_library_does(vit: Path) -> None:
    ours = eval_transform(build_model(f"transformers:{vit}"))(photo())
    theirs = transformers.ViTImageProcessor.from_pretrained(vit)(photo(), return_tensors="pt")["pixel_values"][0]
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() < 0.02  # a step of 8 bits is 0.008: both round the resized pixels

    ours = eval_transform(build_model("torchvision:vit_b_32"))(photo())
    theirs = torchvision.models.ViT_B_32_Weights.DEFAULT.transforms()(photo())
    assert (ours - theirs).abs().max() < 0.04


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
    assert vitrim("macs", "--model", "open_clip:ViT-B-32", "--methods", "tome", "--r", 2) == 0
    full = count_macs(build_model("open_clip:ViT-B-32"))
    assert f"{full / 1e9:.4f}" in capsys.readouterr().out
    with pytest.raises(ValueError, match="has no classes, so there is no accuracy to measure"):
        evaluate_folder(build_model("open_clip:ViT-B-32"), images)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("torchvision:vit_z", "torchvision has no model 'vit_z'; its Vision Transformers are vit_b_16"),
        ("torchvision:resnet18", "of torchvision's models, vitrim reads the VisionTransformer"),
        ("transformers:/no/such/folder", "there is no folder /no/such/folder"),
        ("open_clip:ViT-Z", "open_clip has no model 'ViT-Z'"),
    ],
)
def test_a_name_that_is_none_is_told_in_one_line(name: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert vitrim("doctor", name) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("open_clip:ViT-B-32", "names no weights: add them, open_clip:ViT-B-32/TAG, or pass --checkpoint FILE"),
        ("open_clip:ViT-B-32/none", "open_clip has no weights 'none' for ViT-B-32; there are openai"),
    ],
)
def test_weights_that_are_none_are_told(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_model(name)


def test_settings_that_do_not_apply_are_refused(vit: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--img-size does not apply to transformers"):
        build_model(f"transformers:{vit}", img_size=64)
    with pytest.raises(ValueError, match="brings its weights"):
        load_model(f"transformers:{vit}", tmp_path / "weights.pth")
