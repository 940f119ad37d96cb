"""Whether runtimes keep the same tokens as eager, by a graph that also returns the token of each patch."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from vitrim.backbones.reader import find_stack
from vitrim.core.tokens import Tokens
from vitrim.export.route import ROUTES, find_route
from vitrim.models.embedded import MODEL_NAME

from .experiment import Cell, Experiment
from .export import every_method, place
from .export_stability import TOLERANCE, model_with, some_images

ABOUT = """Whether runtimes keep the same tokens as eager.

The exported graph returns, besides the logits, the token that holds each patch after the last block. The model is the
packaged one, on its own test images.
"""
BATCH_SIZE = 8


class WithSources(nn.Module):
    """A reduced model that returns its logits and the index of the token that holds each patch: [B, K + P]."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, x_BCHW: Tensor) -> Tensor:
        found = find_stack(self.model)
        assert found is not None
        outputs: list[Tokens] = []
        found.stack.collect_outputs(outputs, traced=True)
        try:
            logits_BK: Tensor = self.model(x_BCHW)
        finally:
            found.stack.collect_outputs(None)
        source_BP = outputs[-1].source_BP
        assert source_BP is not None
        return torch.cat([logits_BK, source_BP.to(logits_BK.dtype)], dim=1)


def measure(cell: Cell) -> Iterator[dict[str, object]]:
    """Count the images with other tokens, and those whose logits differ."""
    route, images = find_route(cell.route), some_images(cell.model, cell.images)
    plain = model_with(cell.model, cell.method).eval()
    model = WithSources(plain).eval()
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        num_classes = plain(images[:1]).shape[1]
        path = Path(folder) / f"model{route.suffix}"
        route.write(model, images[:2].clone(), path)
        run = route.load(path)
        parts = torch.split(images, BATCH_SIZE)
        expected, got = torch.cat([model(part) for part in parts]), torch.cat([run(part) for part in parts])
    other_I = (expected != got)[:, num_classes:].any(dim=1)
    apart_I = (expected - got)[:, :num_classes].abs().amax(dim=1) > TOLERANCE
    yield {"images": len(images), "other_tokens": int(other_I.sum()), "logits_apart": int(apart_I.sum())}


EXPERIMENT = Experiment(
    about=ABOUT,
    file="export_kept",
    axes={
        "model": (MODEL_NAME,),
        "route": ("onnx", "openvino", "executorch"),
        "method": ("evit", "token_mergence", "beyond_attentive", "tome"),
    },
    options={"images": 200},
    choices={"route": ROUTES, "method": every_method()},
    place=place,
    settles=lambda row, cell: int(row["images"]) >= cell.images,
    measure=measure,
)
