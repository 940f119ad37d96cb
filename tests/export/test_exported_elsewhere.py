"""Reduced models go through the exporters of torch by a script of one's own, too."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import vitrim


def by_ones_own_script(model: nn.Module, path: Path, images: Tensor, *, dynamo: bool, opset: int = 18) -> Tensor:
    """What onnxruntime makes of torch.onnx.export, without anything of vitrim's routes."""
    onnxruntime = pytest.importorskip("onnxruntime")
    torch.onnx.export(model, (images,), path, dynamo=dynamo, opset_version=opset, input_names=["images"], verbose=False)
    session = onnxruntime.InferenceSession(path)
    return torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


DEPTH, LAYERS = 2, {"layers": (1,), "keep_rate": 0.5}
RANDOM_PAIRS = ("token_mergence", {"layers": (0,), "similarity": "random"})
EVERY_WAY = [("evit", LAYERS), ("token_mergence", LAYERS), ("beyond_attentive", LAYERS), ("tome", {"r": 7})]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "settings"), [*EVERY_WAY, ("random", LAYERS), RANDOM_PAIRS])
def test_the_older_exporter_of_torch_takes_a_reduced_model(tiny_vit, name, settings, images, tmp_path):
    pytest.importorskip("onnx")
    reduced = vitrim.reduce_tokens(tiny_vit(depth=DEPTH), name, **settings)
    with torch.no_grad():
        got = by_ones_own_script(reduced, tmp_path / "m.onnx", images, dynamo=False)
        torch.testing.assert_close(got, reduced(images), rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("opset", [18, 23])
@pytest.mark.parametrize(("name", "settings"), [*EVERY_WAY, ("beyond_attentive", {**LAYERS, "inattentive": "drop"})])
def test_torchs_own_exporter_writes_no_sums_over_duplicates(tiny_vit, name, settings, opset, images, tmp_path):
    onnx = pytest.importorskip("onnx")
    reduced = vitrim.reduce_tokens(tiny_vit(depth=DEPTH), name, **settings)
    with torch.no_grad():
        got = by_ones_own_script(reduced, tmp_path / "m.onnx", images, dynamo=True, opset=opset)
        torch.testing.assert_close(got, reduced(images), rtol=0, atol=1e-5)
    nodes = onnx.load(tmp_path / "m.onnx").graph.node
    reductions = [each.s for node in nodes for each in node.attribute if each.name == "reduction"]
    assert set(reductions) <= {b"none"}
    assert not {"ScatterND", "ReduceL2"} & {node.op_type for node in nodes}
