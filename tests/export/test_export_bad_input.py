"""Whatever a user may get wrong with `vitrim export` ends with one line on standard error and exit code 2."""

from __future__ import annotations

import importlib.util
from types import SimpleNamespace

import pytest
import torch

import vitrim
from small_job import small_job
from vitrim.cli import app
from vitrim.export import openvino


@pytest.fixture
def job(tmp_path):
    return small_job(tmp_path)


@pytest.fixture
def export(job, tmp_path, capsys):
    """Runs `vitrim export` on a small model; returns the exit code and what it said."""

    def run(**options: str) -> tuple[int, str, str]:
        given = {
            **{"to": "torch-export", "model": job.model, "checkpoint": str(job.checkpoint), "images": str(job.data)},
            **{"img_size": str(job.img_size), "method": "evit", "limit": "2", "batch_sizes": "1,2", "rounds": "0"},
            **{"output": str(tmp_path / "model.pt2")},
            **options,
        }
        given = {name: value for name, value in given.items() if value}
        with pytest.raises(SystemExit) as end:
            app(["export", *(part for key, value in given.items() for part in (f"--{key.replace('_', '-')}", value))])
        out, err = capsys.readouterr()
        assert isinstance(end.value.code, int)
        return end.value.code, out, err

    return run


@pytest.fixture
def refused(export):
    def run(**options: str) -> str:
        code, out, err = export(**options)
        assert (code, out) == (2, "")
        assert len(err.splitlines()) == 1, err
        return err.removeprefix("error: ").strip()

    return run


def test_the_command_tells_differences_and_leaves_artefact_and_card(export, tmp_path):
    code, out, _ = export()
    assert code == 0
    assert "model.pt2, batch 1: logits within " in out
    assert "model.pt2, batch 2: logits within " in out
    assert "the same first choice for 2 of 2 images" in out
    assert {"model.pt2", "model.pt2.json"} <= {file.name for file in tmp_path.iterdir()}


def test_an_artefact_that_differs_fails_the_command(refused, tmp_path, monkeypatch):
    from vitrim.export.torch_export import TorchExport

    load = TorchExport.load
    monkeypatch.setattr(TorchExport, "load", lambda self, path: lambda x: load(self, path)(x) + torch.ones(1))
    told = refused(method="")
    assert "what the route torch-export wrote differs from the model by 1 in a logit at batch 1" in told
    assert "and 0.0001 is allowed" in told
    assert not (tmp_path / "model.pt2").exists()


def test_an_unknown_route_lists_the_known_ones(refused):
    assert refused(to="tensorrt") == (
        "no route is called 'tensorrt'; there are torch-export, onnx, openvino, aoti, executorch."
    )


@pytest.mark.parametrize(("to", "library"), [("onnx", "onnxruntime"), ("openvino", "openvino")])
def test_an_extra_that_is_not_installed(refused, monkeypatch, to, library):
    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *rest: None if name == library else find(name, *rest))
    assert refused(to=to) == f'the route {to} needs {library}: pip install "vitrim[{to}]".'


def test_a_method_whose_counts_vary(refused, tmp_path):
    assert "attention_mass decides for each image how many tokens stay" in refused(method="attention_mass")
    assert not (tmp_path / "model.pt2").exists()


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [
        ("batch_sizes", "0", "--batch-sizes': wanted whole numbers of at least 1"),
        ("batch_sizes", "one", "separated by commas, not 'one'"),
        ("batch_sizes", "1,3", "--limit 2 is too few images for --batch-sizes 1,3"),
        ("tolerance", "-1", "--tolerance': wanted a number of at least 0, not '-1'"),
        ("tolerance", "nan", "--tolerance': wanted a number of at least 0, not 'nan'"),
        ("rounds", "-1", "--rounds': wanted a whole number of at least 0"),
        ("output", "absent/model.pt2", "the output is a file in a folder that exists, not absent/model.pt2"),
        ("output", "model.onnx", "the route torch-export writes .pt2 files, and the output is model.onnx"),
        ("images", "absent", "there is no folder absent"),
        ("keep_rate", "1.5", "--keep-rate' / '--keep-rates': wanted numbers above 0 and at most 1"),
        ("layers", "40", "layers (40,) do not fit a model with blocks 0 to"),
        ("method", "evitt", "no method is called 'evitt'"),
        ("model", "resnet18", "resnet18"),
    ],
)
def test_settings_that_make_no_sense_are_seen_before_weights_are_fetched(refused, monkeypatch, option, value, told):
    monkeypatch.setattr("vitrim.loading.build.check_hub", lambda *_: pytest.fail("asked the hub"))
    assert told in refused(**{"checkpoint": "", option: value})


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"batch_sizes": 7}, "batch sizes are a list of whole numbers of at least 1, not 7"),
        ({"images": [1]}, r"images are \[I, C, H, W\], at least 7 of them for these batch sizes, not list"),
    ],
)
def test_arguments_of_the_wrong_kind(tiny_vit, tmp_path, settings, told):
    with pytest.raises(ValueError, match=told):
        vitrim.export_model(tiny_vit(depth=2), tmp_path / "m.pt2", to="torch-export", **settings)


def test_an_openvino_that_is_too_old_names_what_it_cannot_read(tmp_path):
    class Core:
        def read_model(self, file):
            raise RuntimeError("Check 'false' failed\n-- Conversion is failed for: ScatterND-23\n")

    old = SimpleNamespace(Core=Core, __version__="2026.2.1-0-releases")
    with pytest.raises(ValueError, match=r"^OpenVINO 2026\.2\.1 cannot read ScatterND-23 of ONNX: a newer one may\.$"):
        openvino._read(old, tmp_path / "model.onnx")


def test_a_folder_with_too_few_images(refused):
    assert "holds 6 images, and --batch-sizes asks for 8" in refused(limit="8", batch_sizes="8")
