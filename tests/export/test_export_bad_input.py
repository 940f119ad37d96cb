"""Whatever a user may get wrong with `vitrim export` ends with one line on standard error and exit code 2."""

from __future__ import annotations

import importlib.util
import re
from types import SimpleNamespace

import pytest
import torch

import vitrim
from small_job import small_job
from vitrim.cli import app
from vitrim.export import openvino
from vitrim.export.route import ROUTES


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
    assert re.search(r"torch-export.* 1 .*batch 1.*0\.0001", told)
    assert not (tmp_path / "model.pt2").exists()


def test_an_unknown_route_lists_the_known_ones(refused):
    told = refused(to="tensorrt")
    assert "'tensorrt'" in told and all(name in told for name in ROUTES)


@pytest.mark.parametrize(("to", "library"), [("onnx", "onnxruntime"), ("openvino", "openvino")])
def test_an_extra_that_is_not_installed(refused, monkeypatch, to, library):
    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *rest: None if name == library else find(name, *rest))
    assert re.search(rf'{to} .*{library}.*pip install "vitrim\[{to}\]"', refused(to=to))


def test_a_method_whose_counts_vary(refused, tmp_path):
    assert "attention_mass" in refused(method="attention_mass")
    assert not (tmp_path / "model.pt2").exists()


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [
        ("batch_sizes", "0", "--batch-sizes.*at least 1"),
        ("batch_sizes", "one", "commas.*'one'"),
        ("batch_sizes", "1,3", "--limit 2.*--batch-sizes 1,3"),
        ("tolerance", "-1", "--tolerance.*at least 0.*'-1'"),
        ("tolerance", "nan", "--tolerance.*at least 0.*'nan'"),
        ("rounds", "-1", "--rounds.*at least 0"),
        ("output", "absent/model.pt2", "output.*folder.*absent/model.pt2"),
        ("output", "model.onnx", r"torch-export.*\.pt2.*model\.onnx"),
        ("images", "absent", "no folder absent"),
        ("keep_rate", "1.5", "--keep-rate.*above 0.*at most 1"),
        ("layers", "40", r"layers \(40,\).*blocks 0 to"),
        ("method", "evitt", "'evitt'"),
        ("model", "resnet18", "resnet18"),
    ],
)
def test_settings_that_make_no_sense_are_seen_before_weights_are_fetched(refused, monkeypatch, option, value, told):
    monkeypatch.setattr("vitrim.loading.build.check_hub", lambda *_: pytest.fail("asked the hub"))
    assert re.search(told, refused(**{"checkpoint": "", option: value}))


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"batch_sizes": 7}, "batch.sizes.*at least 1.*7"),
        ({"images": [1]}, r"\[I, C, H, W\].*7.*list"),
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
    with pytest.raises(ValueError, match=r"^OpenVINO 2026\.2\.1 .*ScatterND-23.*newer.*\.$"):
        openvino._read(old, tmp_path / "model.onnx")


def test_a_folder_with_too_few_images(refused):
    assert re.search("6 images.*--batch-sizes.*8", refused(limit="8", batch_sizes="8"))
