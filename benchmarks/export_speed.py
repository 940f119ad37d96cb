"""Speed of exported models: relative to the unreduced model by the same route, and to eager."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterator
from pathlib import Path

import timm
import torch

import vitrim
from vitrim.compare.environment import processor_name
from vitrim.export.route import ROUTES, find_route

from .experiment import Cell, Experiment
from .export import software
from .methods import METHODS

ABOUT = """Speed of exported models: relative to the unreduced model by the same route, and to eager.

Each exported model is first compared with eager at the same batch sizes. Weights and images are random, since speed
does not depend on them. Both models of a ratio take turns in one process.
"""


def measure(cell: Cell) -> Iterator[dict[str, object]]:
    torch.manual_seed(0)
    base = timm.create_model(cell.model).eval()
    model = vitrim.reduce_tokens(copy.deepcopy(base), METHODS[cell.method])
    mac_ratio = vitrim.count_macs(base) / vitrim.count_macs(model)
    images = torch.randn(max(2, *cell.batch), 3, 224, 224)
    with tempfile.TemporaryDirectory() as folder:
        report = vitrim.export_model(
            model,
            Path(folder) / f"model{find_route(cell.route).suffix}",
            to=cell.route,
            images=images,
            batch_sizes=cell.batch,
            rounds=cell.rounds,
        )
    speeds = {(speed.batch_size, speed.over): speed for speed in report.speeds}
    for batch in cell.batch:
        over, eager = speeds[batch, "unreduced"], speeds[batch, "eager"]
        yield {
            "batch": batch,
            "mac_ratio": mac_ratio,
            "speedup": over.speedup,
            "speedup_per_mac_ratio": over.speedup / mac_ratio,
            "ms": over.latency_ms,
            "over_eager": eager.speedup,
            "worst_difference": f"{max(each.largest for each in report.differences):.1e}",
            "rounds": over.rounds,
        }


def place(cell: Cell) -> dict[str, object]:
    """Identify the machine and the versions of the route's libraries."""
    return {"threads": cell.threads, "versions": software(cell.route), "cpu": processor_name()}


EXPERIMENT = Experiment(
    about=ABOUT,
    file="export_speed_{on}",
    axes={"route": ("onnx", "openvino"), "model": ("deit_tiny_patch16_224",), "method": ("EViT 0.7",)},
    together={"batch": (1, 32)},
    options={"rounds": 30},
    choices={"route": ROUTES, "method": METHODS},
    place=place,
    measure=measure,
)
