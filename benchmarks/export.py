"""Which method can be exported by which route: each on a tiny random ViT, compared with eager at batch 1 and 7."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

import vitrim
from vitrim.core.amount import PerBlock
from vitrim.export.artefact_card import route_versions
from vitrim.export.route import ROUTES, find_route

from .experiment import Cell, Experiment

VARIANTS: dict[str, dict[str, Any]] = {  # settings that run other operations, besides all registered methods
    "beyond_attentive, kmeans": {"inattentive": "kmeans"},
    "beyond_attentive, conv": {"inattentive": "conv"},
    "beyond_attentive, mlp": {"inattentive": "mlp"},
    "beyond_attentive, max": {"inattentive": "max"},
    "token_mergence, l1": {"similarity": "l1"},
    "token_mergence, attention": {"similarity": "attention"},
    "token_mergence, random": {"similarity": "random"},
    "evit, scorer received": {"scorer": "received"},
}
BATCH_SIZES = (1, 7)


def every_method() -> list[str]:
    """Names of all methods and variants, and "unreduced"."""
    return ["unreduced", *vitrim.list_methods(), *VARIANTS]


def reduced(model: nn.Module, method: str) -> nn.Module:
    """Reduce the model by a method or variant."""
    if method == "unreduced":
        return model
    name = method.partition(",")[0]
    return vitrim.reduce_tokens(model, name, **moderate(name), **VARIANTS.get(method, {})).eval()


def moderate(name: str) -> dict[str, Any]:
    """Return an amount that suits a small model."""
    amount = vitrim.create_method(name).amount
    assert amount is not None
    return {amount.setting: 5 if isinstance(amount, PerBlock) else 0.5 if amount.solved else 0.8}


def software(route: str) -> str:
    """Versions of the libraries of a route. Empty if one is missing."""
    found = find_route(route)
    return "" if found.missing() else " ".join(f"{name} {version}" for name, version in route_versions(found).items())


def place(cell: Cell) -> dict[str, object]:
    return {"versions": software(cell.route)}


def measure(cell: Cell) -> Iterator[dict[str, object]]:
    """Measure the largest difference of logits, or record why the export was refused."""
    images = torch.randn(14, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    start, worst, refused = time.perf_counter(), "", ""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"model{find_route(cell.route).suffix}"
        try:
            model = reduced(tiny(), cell.method)
            report = vitrim.export_model(model, path, to=cell.route, images=images, batch_sizes=BATCH_SIZES)
            worst = f"{max(each.largest for each in report.differences):.1e}"
        except ValueError as error:
            refused = str(error)
    yield {
        "batches": " ".join(map(str, BATCH_SIZES)),
        "worst_difference": worst,
        "refused": refused,
        "seconds": f"{time.perf_counter() - start:.1f}",
    }


def tiny() -> nn.Module:
    """Make a random ViT with 4 blocks and 64 patches."""
    torch.manual_seed(0)
    model = VisionTransformer(img_size=32, patch_size=4, embed_dim=48, depth=4, num_heads=3, num_classes=10).eval()
    for weight in model.parameters():
        if weight.ndim > 1:
            nn.init.normal_(weight, std=0.1)  # large enough for the blocks to matter
    return model


EXPERIMENT = Experiment(
    about=f"{__doc__}\n\n`python -m benchmarks tables` then updates the table of docs/export.md.\n",
    file="export",
    axes={"route": tuple(ROUTES), "method": every_method()},
    choices={"route": ROUTES, "method": every_method()},
    place=place,
    measure=measure,
)
