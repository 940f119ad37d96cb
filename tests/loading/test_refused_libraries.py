"""Names, sizes, files and settings of other libraries' models that do not fit are told in one line."""

from __future__ import annotations

import importlib.metadata
import json
import re
import shutil
import socket
import sys
from pathlib import Path

import pytest
import torch
from commands import refusal
from safetensors.torch import load_file, save_file

from vitrim import from_pretrained
from vitrim.loading.build import build_model, load_model
from vitrim.loading.libraries import LIBRARIES

pytestmark = pytest.mark.usefixtures("small_models")


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
