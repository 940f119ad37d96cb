"""An artefact is kept only if it computes what the model does, at every batch size."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from PIL import Image
from torch import Tensor, nn

import vitrim
from library_models import HF, of_open_clip, of_transformers, torchvision_vit
from vitrim.cli import app
from vitrim.core import portable
from vitrim.export.route import ROUTES, Route, find_route
from vitrim.export.torch_export import TorchExport
from vitrim.export.verify import ExportMismatch, compare_logits

DEPTH = 2


LAYERS = {"layers": (1,), "keep_rate": 0.5}


@pytest.fixture
def model(tiny_vit) -> nn.Module:
    return vitrim.reduce_tokens(tiny_vit(depth=DEPTH), "evit", **LAYERS)


def outputs_agree(model: nn.Module, to: str, path: Path, images: Tensor) -> None:
    """Exported, loaded again from the file alone, and run at three batch sizes."""
    report = vitrim.export_model(model, path, to=to, images=images, batch_sizes=(1, 2, 7))
    assert [each.batch_size for each in report.differences] == [1, 2, 7]
    runner = find_route(to).load(path)
    with torch.inference_mode():
        for size in (1, 2, 7):
            expected = model(images[:size])
            expected = getattr(expected, "logits", expected)
            torch.testing.assert_close(runner(images[:size]), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("to", ["torch-export", "onnx", "openvino"])
def test_an_artefact_takes_any_batch_and_gives_the_models_logits(model, to, images, tmp_path):
    pytest.importorskip({"torch-export": "torch", "onnx": "onnxruntime", "openvino": "openvino"}[to])
    outputs_agree(model, to, tmp_path / f"model{find_route(to).suffix}", images)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("token_mergence", LAYERS),
        ("beyond_attentive", LAYERS),
        ("tome", {"r": 7}),
        ("random", LAYERS),
        ("token_mergence", {**LAYERS, "similarity": "random"}),
        ("beyond_attentive", {**LAYERS, "inattentive": "kmeans"}),
    ],
)
def test_every_way_to_reduce_is_written(tiny_vit, name, settings, images, tmp_path):
    pytest.importorskip("onnxruntime")
    reduced = vitrim.reduce_tokens(tiny_vit(depth=DEPTH), name, **settings)
    outputs_agree(reduced, "onnx", tmp_path / "model.onnx", images)


class _Order(nn.Module):
    """Ranks values with many ties."""

    def forward(self, x_BN: Tensor) -> Tensor:
        return portable.order(x_BN.round()).float()


@pytest.mark.parametrize("to", ["onnx", "openvino"])
def test_ties_go_to_the_lower_index_in_other_runtimes_too(to, tmp_path):
    pytest.importorskip({"onnx": "onnxruntime", "openvino": "openvino"}[to])
    x = torch.randn(3, 200, generator=torch.Generator().manual_seed(0))
    route, path = find_route(to), tmp_path / f"order{find_route(to).suffix}"
    route.write(_Order(), x[:2], path)
    assert torch.equal(route.load(path)(x), _Order()(x))


@pytest.mark.slow
@pytest.mark.parametrize("to", ["torch-export", "onnx"])
@pytest.mark.parametrize(
    ("library", "make"),
    [
        ("torchvision", torchvision_vit),
        (
            "transformers",
            lambda: of_transformers("ViTForImageClassification", "ViTConfig", **HF, num_labels=10),
        ),
        ("open_clip", lambda: of_open_clip().visual),
    ],
)
def test_models_of_other_libraries_go_through(library, make, to, images, tmp_path):
    pytest.importorskip(library)
    pytest.importorskip("onnxruntime")
    reduced = vitrim.reduce_tokens(make(), "evit", keep_rate=0.5, layers=(1, 2)).eval()
    outputs_agree(reduced, to, tmp_path / f"model{find_route(to).suffix}", images)


def test_timings_come_against_eager_and_against_the_unreduced_model(model, images, tmp_path):
    report = vitrim.export_model(
        model, tmp_path / "m.pt2", to="torch-export", images=images, batch_sizes=(2,), rounds=2
    )
    assert [(speed.over, speed.batch_size, speed.rounds) for speed in report.speeds] == [
        ("eager", 2, 2),
        ("unreduced", 2, 2),
    ]
    assert all(speed.latency_ms > 0 and speed.speedup.low <= speed.speedup.high for speed in report.speeds)
    assert vitrim.restore(model)(images).shape == (7, 10)  # and the model is as it was
    card = json.loads(report.card.read_text())
    assert card["method"]["name"] == "evit"
    assert card["method"]["settings"]["layers"] == [1]
    assert card["input"]["shape"] == ["batch", 3, 32, 32]
    assert card["input"]["mean"] == [0.485, 0.456, 0.406]
    assert card["differences"][0]["batch_size"] == 2
    assert card["versions"]["torch"] == torch.__version__
    assert [each["over"] for each in card["speed"]] == ["eager", "unreduced"]
    assert all(each["speedup_p10"] <= each["speedup"] <= each["speedup_p90"] for each in card["speed"])


class _Double(Route):
    """Keeps the model itself, and changes what it gives in a way of choice."""

    name, suffix = "double", ".x"

    def __init__(self, spoil: Any):
        self.spoil = spoil

    def write(self, model: nn.Module, x_BCHW: Tensor, path: Path) -> None:
        path.write_text("written")
        self.model = model

    def load(self, path: Path) -> Any:
        return lambda x_BCHW: self.spoil(self.model(x_BCHW))


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda logits: logits + 2e-4, r"0\.0002.*batch 1.*0\.0001"),
        (lambda logits: logits * torch.nan, r"nan.*logit"),
        (lambda logits: logits.flip(1), r"agrees on \d of 7 images"),
        (lambda logits: logits[:, :5], r"\(1, 5\).*\(1, 10\)"),
    ],
)
def test_an_artefact_that_computes_something_else_is_not_kept(model, images, tmp_path, monkeypatch, spoil, told):
    monkeypatch.setattr("vitrim.export.export_model.find_route", lambda _: _Double(spoil))
    path = tmp_path / "model.x"
    path.write_text("of before")
    with pytest.raises(ExportMismatch, match=told):
        vitrim.export_model(model, path, images=images)
    assert [file.name for file in tmp_path.iterdir()] == ["model.x"]
    assert path.read_text() == "of before"


def test_a_tolerance_of_ones_own_lets_a_difference_pass(model, images, tmp_path, monkeypatch):
    monkeypatch.setattr("vitrim.export.export_model.find_route", lambda _: _Double(lambda logits: logits + 2e-4))
    report = vitrim.export_model(model, tmp_path / "m.x", images=images, batch_sizes=(7,), tolerance=1e-3)
    assert report.path.read_text() == "written"
    assert report.differences[0].largest == pytest.approx(2e-4, rel=0.05)
    assert report.differences[0].num_agreeing == 7
    assert report.differences[0].num_apart == 0


def other_tokens_in_one_image(logits: Tensor) -> Tensor:
    """As where two scores all but tie: of the images that the test compares, the third in a batch is off."""
    return logits + torch.tensor([0.0, 0.0, 0.3, 0.0, 0.0, 0.0, 0.0]).unsqueeze(1)


def test_how_many_images_kept_other_tokens_is_told_and_may_be_allowed(model, images, tmp_path, monkeypatch):
    monkeypatch.setattr("vitrim.export.export_model.find_route", lambda _: _Double(other_tokens_in_one_image))
    with pytest.raises(ExportMismatch, match="1 of 7 images differ"):
        vitrim.export_model(model, tmp_path / "m.x", images=images, batch_sizes=(7,))
    report = vitrim.export_model(model, tmp_path / "m.x", images=images, batch_sizes=(7,), num_apart=1)
    assert report.differences[0].num_apart == 1
    assert json.loads(report.card.read_text())["differences"][0]["num_apart"] == 1


def test_an_answer_that_depends_on_the_other_images_of_a_batch_is_not_kept(images, tmp_path, monkeypatch):
    class OneScaleForAll(nn.Module):
        def forward(self, x_BCHW: Tensor) -> Tensor:
            return (x_BCHW / x_BCHW.abs().max()).mean(dim=(2, 3))

    monkeypatch.setattr("vitrim.export.export_model.find_route", lambda _: _Double(lambda logits: logits))
    with pytest.raises(ExportMismatch, match=r"batch.*scale"):
        vitrim.export_model(OneScaleForAll(), tmp_path / "m.x", images=images)
    assert list(tmp_path.iterdir()) == []


def test_nan_is_looked_for_before_runtimes_lose_it(model, images, tmp_path, monkeypatch):
    monkeypatch.setattr("vitrim.export.export_model.find_route", lambda _: _Double(torch.nan_to_num))
    with pytest.raises(ValueError, match=r"images.*NaN"):
        vitrim.export_model(model, tmp_path / "m.x", images=images.log())
    with torch.no_grad():
        model.head.bias[0] = torch.nan
    with pytest.raises(ValueError, match=r"weights.*NaN.*head\.bias"):
        vitrim.export_model(model, tmp_path / "m.x", images=images)
    with pytest.raises(ValueError, match=r"model.*NaN.*7 of 7 images"):
        compare_logits(lambda x: x.mean(dim=(2, 3)) * torch.nan, lambda x: x.mean(dim=(2, 3)), images, 7, 1e-4)


def test_an_unreduced_model_that_does_not_go_through_costs_its_times_alone(model, images, tmp_path, monkeypatch):
    class Reduced(_Double):
        def write(self, model: nn.Module, x_BCHW: Tensor, path: Path) -> None:
            if vitrim.backbones.reader.find_stack(model.model) is None:
                raise RuntimeError("too large")
            super().write(model, x_BCHW, path)

    monkeypatch.setattr("vitrim.export.export_model.find_route", lambda _: Reduced(lambda logits: logits))
    report = vitrim.export_model(model, tmp_path / "m.x", images=images, batch_sizes=(7,), rounds=1)
    assert [speed.over for speed in report.speeds] == ["eager"]
    (note,) = report.notes
    assert "unreduced" in note and note.endswith("RuntimeError: too large")
    assert json.loads(report.card.read_text())["notes"] == list(report.notes)
    assert report.path.exists()


def test_the_opset_is_a_choice_where_there_is_one(tmp_path):
    onnx = pytest.importorskip("onnx")
    x = torch.randn(2, 3, 4, 4)
    for opset in (18, 23):
        find_route("onnx").at_opset(opset).write(nn.Sequential(nn.Flatten(), nn.GELU()), x, tmp_path / "m.onnx")
        assert [each.version for each in onnx.load(tmp_path / "m.onnx").opset_import if each.domain == ""] == [opset]
    for opset in (17, 24, 18.5, True):
        with pytest.raises(ValueError, match=r"opset.*18 to 23"):
            vitrim.export_model(nn.Flatten(), tmp_path / "m.onnx", to="onnx", opset=opset)
    with pytest.raises(ValueError, match=r"ONNX.*aoti"):
        vitrim.export_model(nn.Flatten(), tmp_path / "m.pt2", to="aoti", opset=18)


def test_what_an_exporter_cannot_write_is_told_in_one_line(images, tmp_path):
    class Branches(nn.Module):
        def forward(self, x_BCHW: Tensor) -> Tensor:
            logits_BK = x_BCHW.mean(dim=(2, 3))
            return logits_BK if logits_BK.sum() > 0 else -logits_BK

    with pytest.raises(ValueError, match="torch-export cannot write") as told:
        vitrim.export_model(Branches(), tmp_path / "m.pt2", to="torch-export", images=images)
    assert "\n" not in str(told.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("to", ROUTES)
def test_a_method_whose_counts_vary_is_refused_by_every_route(tiny_vit, to, tmp_path):
    varying = vitrim.reduce_tokens(tiny_vit(depth=DEPTH), "attention_mass", mass=0.8, layers=(1,))
    with pytest.raises(ValueError, match=r"attention_mass.*graph"):
        vitrim.export_model(varying, tmp_path / f"m{find_route(to).suffix}", to=to)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_library_names_the_extra():
    class Absent(Route):
        name, suffix, extra, modules = "absent", ".x", "onnx", ("torch", "no_such_library")

        def write(self, model: nn.Module, x_BCHW: Tensor, path: Path) -> None: ...

        def load(self, path: Path) -> Any: ...

    assert Absent().missing() == 'the route absent needs no_such_library: pip install "vitrim[onnx]"'
    assert TorchExport().missing() is None


def test_weights_in_half_precision_are_exported_as_a_copy_in_single(model, images, tmp_path, monkeypatch):
    double, half = _Double(lambda logits: logits), model.to(torch.bfloat16)
    monkeypatch.setattr("vitrim.export.export_model.find_route", lambda _: double)
    assert vitrim.export_model(half, tmp_path / "m.x", images=images).differences[0].largest == 0
    assert {weight.dtype for weight in double.model.parameters()} == {torch.float32}
    assert {weight.dtype for weight in half.parameters()} == {torch.bfloat16}


def test_a_tower_without_classes_goes_through_the_command(tmp_path, monkeypatch):
    model = timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=32, depth=2)
    vitrim.save_pretrained(model.eval(), tmp_path / "tower")
    (tmp_path / "images").mkdir()
    for i in range(3):
        Image.new("RGB", (40, 40), (i, 50, 100)).save(tmp_path / "images" / f"{i}.png")
    options = {"to": "torch-export", "model": "tower", "images": "images", "output": "tower.pt2", "limit": "3"}
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        app(["export", *(f"--{name}={value}" for name, value in options.items()), "--batch-sizes=1,3", "--rounds=0"])
    assert end.value.code == 0
    assert torch.export.load(tmp_path / "tower.pt2").module()(torch.zeros(2, 3, 32, 32)).shape == (2, 192)


def test_a_full_disk_names_the_file_and_leaves_nothing(model, images, tmp_path, monkeypatch):
    def write(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(TorchExport, "write", write)
    with pytest.raises(OSError, match=r"No space left") as error:
        vitrim.export_model(model, tmp_path / "a.pt2", to="torch-export", images=images)
    assert error.value.filename == str(tmp_path / "a.pt2")
    assert list(tmp_path.iterdir()) == []
