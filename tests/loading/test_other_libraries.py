"""Models of torchvision, transformers and open_clip given to the commands by name."""

from __future__ import annotations

import importlib.metadata
import json
import re
import shutil
import socket
import sys
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
import torchvision
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file
from torchvision.models import vision_transformer

from vitrim import count_macs, evaluate_folder, from_pretrained, reduce_tokens
from vitrim.cli import app
from vitrim.heads import Logits
from vitrim.loading.build import build_model, load_model
from vitrim.loading.libraries import LIBRARIES
from vitrim.measure.evaluate import evaluate
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
def two_towers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny CLIP and a tiny SigLIP, whole, and their image processors."""
    folder = tmp_path_factory.mktemp("towers")
    sizes = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 64}
    text = sizes | {"vocab_size": 100, "max_position_embeddings": 8, "eos_token_id": 2, "bos_token_id": 1}
    vision = sizes | {"image_size": 32, "patch_size": 8}
    torch.manual_seed(0)
    # The projection's width is not the default of the vision tower's own configuration.
    clip = transformers.CLIPConfig(vision_config=vision, text_config=text, projection_dim=24)
    transformers.CLIPModel(clip).save_pretrained(folder / "CLIPModel")
    transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32).save_pretrained(folder / "CLIPModel")
    siglip = transformers.SiglipConfig(vision_config=vision, text_config=text)
    transformers.SiglipModel(siglip).save_pretrained(folder / "SiglipModel")
    size = {"height": 32, "width": 32}
    transformers.SiglipImageProcessor(size=size).save_pretrained(folder / "SiglipModel")
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return demo_images(tmp_path_factory.mktemp("images") / "fashion")


@pytest.fixture(autouse=True)
def small_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """open_clip has two small models more, tiny and tiny-timm, and torchvision's Vision Transformers are small ones."""
    text = {"context_length": 8, "vocab_size": 100, "width": 32, "heads": 2, "layers": 2}
    own = {"image_size": 64, "patch_size": 8, "width": 96, "head_width": 16, "layers": 4}
    of_timm = {"image_size": 160, "timm_model_name": "test_vit", "timm_model_pretrained": False, "timm_proj": "linear"}
    for name, vision in (("tiny", own), ("tiny-timm", of_timm)):
        config = {"embed_dim": 24, "vision_cfg": vision, "text_cfg": text}
        monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, name, config)

    build, small = vision_transformer._vision_transformer, {"num_layers": 4, "hidden_dim": 48, "mlp_dim": 96}
    monkeypatch.setattr(vision_transformer, "_vision_transformer", lambda **sizes: build(**sizes | small))


def vitrim(*arguments: object) -> int:
    with pytest.raises(SystemExit) as stopped:
        app([str(argument) for argument in arguments])
    return int(stopped.value.code or 0)


def refusal(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """What the command says as it refuses: one line."""
    capsys.readouterr()
    assert vitrim(*arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1
    return said


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


def test_weights_that_are_not_those_of_the_tower_are_refused(two_towers: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(two_towers / "CLIPModel", tmp_path / "clip")
    settings = json.loads((folder / "config.json").read_text())
    settings["projection_dim"] = 16
    (folder / "config.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match=r"visual_projection\.weight.*shape"):
        load_model(f"transformers:{folder}")
    (folder / "model.safetensors").write_bytes(b"nothing of that kind")
    with pytest.raises(ValueError, match="safetensors"):
        load_model(f"transformers:{folder}")


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


def with_processor(vit: Path, folder: Path, **settings: object) -> str:
    shutil.copytree(vit, folder)
    file = folder / "preprocessor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))
    return f"transformers:{folder}"


def test_an_image_processor_that_keeps_shapes_is_refused(
    vit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = with_processor(vit, tmp_path / "vit", size={"longest_edge": 64})
    said = refusal(capsys, "doctor", name)
    assert "image processor" in said and "{'longest_edge': 64}" in said


@pytest.mark.parametrize(
    ("file", "changes", "words"),
    [
        ("preprocessor_config", [1], "image processor"),
        ("preprocessor_config", {"image_processor_type": "BertTokenizer"}, "no image processor"),
        ("config", {"image_size": "x"}, "image_size"),
        ("config", {"architectures": [3]}, "architecture"),
        ("config", {"architectures": ["logging"]}, "architecture logging"),
        ("config", {"hidden_act": "none"}, "none"),
    ],
)
def test_settings_that_transformers_cannot_follow_are_told_in_one_line(
    vit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], file: str, changes: object, words: str
) -> None:
    shutil.copytree(vit, tmp_path / "odd")
    path = tmp_path / "odd" / f"{file}.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes if isinstance(changes, dict) else changes))
    assert words in refusal(capsys, "evaluate", "--model", tmp_path / "odd", "--data", tmp_path)


@pytest.mark.parametrize(("blocks", "words"), [(9, r"layers.*is missing"), (1, r"layers.*no place")])
def test_weights_of_more_or_fewer_blocks_than_the_configuration_says_are_refused(
    vit: Path, tmp_path: Path, blocks: int, words: str, recwarn: pytest.WarningsRecorder
) -> None:
    shutil.copytree(vit, tmp_path / "odd")
    path = tmp_path / "odd" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"num_hidden_layers": blocks}))
    for load in (load_model, from_pretrained):
        with pytest.raises(ValueError, match=words):
            load(str(tmp_path / "odd"))
    assert not recwarn.list


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64, torch.float8_e4m3fn])
def test_numbers_that_are_no_weights_are_refused_before_transformers_converts_them(
    vit: Path, tmp_path: Path, dtype: torch.dtype
) -> None:
    shutil.copytree(vit, tmp_path / "odd")
    file = tmp_path / "odd" / "model.safetensors"
    state = load_file(file)
    save_file(state | {"classifier.weight": state["classifier.weight"].to(dtype)}, file, {"format": "pt"})
    for load in (load_model, from_pretrained):
        with pytest.raises(ValueError, match=r"floating-point.*classifier\.weight"):
            load(str(tmp_path / "odd"))


def test_a_pooler_that_is_missing_is_told_and_the_rest_is_read(tmp_path: Path, vit: Path) -> None:
    config = transformers.ViTConfig(**(json.loads((vit / "config.json").read_text()) | {"architectures": ["ViTModel"]}))
    transformers.ViTModel(config, add_pooling_layer=False).save_pretrained(tmp_path)
    shutil.copy(vit / "preprocessor_config.json", tmp_path)
    with pytest.warns(UserWarning, match=r"no weights for pooler.*random"):
        model = load_model(str(tmp_path))
    assert model.num_classes == 0


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("torchvision:vit_z", "torchvision.*'vit_z'.*vit_b_16"),
        ("torchvision:resnet18", "torchvision.*VisionTransformer"),
        ("torchvision:raft_small", "raft_small.*classify.*vit_b_16"),
        ("transformers:/no/such/folder", "no folder /no/such/folder"),
        ("transformers:~/no/such/folder", "no folder ~/no/such/folder"),
        ("open_clip:ViT-Z", "open_clip.*'ViT-Z'"),
        ("open_clip:RN50", "ModifiedResNet.*open_clip"),
        ("torchvision:", "torchvision: .*torchvision:vit_b_16"),
        ("transformers:", "transformers: .*transformers:google/vit-"),
        ("open_clip:", "open_clip: .*open_clip:ViT-B-32/"),
    ],
)
def test_a_name_that_is_none_is_told_in_one_line(name: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert re.search(message, refusal(capsys, "doctor", name))


def test_a_folder_that_is_not_there_is_no_matter_of_the_network() -> None:
    with pytest.raises(FileNotFoundError, match=r"no folder /no/such/folder"):
        load_model("transformers:/no/such/folder")


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """No network; the hosts that were looked up."""
    asked: list[object] = []

    def fail(host: object, *_: object, **__: object) -> None:
        asked.append(host)
        raise socket.gaierror("there is no network in this test")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    return asked


def test_a_repository_without_a_network_comes_with_advice(
    offline: list[object], capsys: pytest.CaptureFixture[str]
) -> None:
    said = refusal(capsys, "macs", "--model", "transformers:nobody/nothing")
    assert "network" in said and "folder" in said and "nobody/nothing" in said
    assert offline


@pytest.mark.parametrize("name", ["deeplabv3_resnet50", "fasterrcnn_resnet50_fpn"])
def test_nothing_is_downloaded_to_refuse_a_detector(
    name: str, offline: list[object], capsys: pytest.CaptureFixture[str]
) -> None:
    assert "classify" in refusal(capsys, "doctor", f"torchvision:{name}")
    assert not offline


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("torchvision:vit_b_16", 0, "--img-size.*at least 1"),
        ("torchvision:vit_b_16", -16, "--img-size.*at least 1"),
        ("open_clip:ViT-B-32", 0, "--img-size.*at least 1"),
        ("torchvision:vit_b_16", 225, "patches of 16 pixels.*--img-size.*224 or 240"),
        ("torchvision:resnet18", 64, "torchvision:resnet18.*64 pixels"),
        ("open_clip:tiny", 65, "patches of 8 pixels.*--img-size.*64 or 72"),
        ("open_clip:tiny", 4, "--img-size.* 8"),
        ("open_clip:tiny-timm", 161, "--img-size.*160 or 176"),  # a tower of timm's
    ],
)
def test_sizes_that_do_not_fit_are_told(name: str, size: int, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert re.search(message, refusal(capsys, "doctor", name, "--img-size", size))
    with pytest.raises(ValueError, match=r"img-size|cannot be built"):
        build_model(name, img_size=size)
    assert re.search(message, refusal(capsys, "macs", "--model", name, "--img-size", size))


def test_a_model_is_built_for_the_size_of_its_weights() -> None:
    with torch.device("meta"):
        assert build_model("torchvision:vit_h_14").image_size == 518


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("open_clip:ViT-B-32", "open_clip:ViT-B-32/TAG.*--checkpoint"),
        ("open_clip:ViT-B-32/none", "'none'.*ViT-B-32.*openai"),
    ],
)
def test_weights_that_are_none_are_told(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_model(name)


@pytest.mark.parametrize("model", ["torchvision:vit_b_32", "open_clip:tiny"])
def test_files_that_hold_no_weights_of_the_model_are_told(
    model: str, tmp_path: Path, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other, readme, text = tmp_path / "other.pt", tmp_path / "README.md", tmp_path / "text.pt"
    torch.save({"head.weight": torch.zeros(2, 2)}, other)
    readme.write_text("no weights")
    text.write_text("no weights")
    messages = {
        other: f"checkpoint of {model}.*56 missing",
        readme: "checkpoint.*safetensors",
        text: "PyTorch file.*tensors",
        tmp_path / "nowhere.pt": r"no checkpoint.*nowhere\.pt",
    }
    for file, message in messages.items():
        said = refusal(capsys, "evaluate", "--model", model, "--checkpoint", file, "--data", images)
        assert re.search(message, said)


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


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_library_that_is_missing_is_told_with_what_to_install(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ValueError, match=f"{library} .*pip install") as told:
        build_model(f"{library}:vit_b_16")
    extras = importlib.metadata.metadata("vitrim").get_all("Provides-Extra") or []
    assert set(re.findall(r"vitrim\[(.*)\]", str(told.value))) <= {each.replace("-", "_") for each in extras}


def test_settings_that_do_not_apply_are_refused(vit: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"--img-size .*transformers"):
        build_model(f"transformers:{vit}", img_size=64)
    with pytest.raises(ValueError, match="weights"):
        load_model(f"transformers:{vit}", tmp_path / "weights.pth")
