"""Write the card beside an artefact, a JSON file: what it is, how to prepare images, and what was measured."""

from __future__ import annotations

import importlib.metadata
import json
import platform
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..core.method import Method, plain_settings
from ..measure.model_input import preparation_of
from ..measure.turns import columns
from ..version import __version__
from .route import Route
from .timing import Speed
from .verify import Difference

PREPARATION = ("mean", "std", "interpolation", "crop_pct", "crop_mode")


def card_path(path: Path) -> Path:
    """The path of an artefact's card: model.onnx.json beside model.onnx."""
    return path.with_name(f"{path.name}.json")


def artefact_card(
    model: nn.Module,
    method: Method | None,
    route: Route,
    x_BCHW: Tensor,
    tolerance: float,
    differences: Sequence[Difference],
    speeds: Sequence[Speed],
    notes: Sequence[str] = (),
) -> str:
    """Return the text of the card. Settings that JSON cannot hold are written as their repr."""
    content = {
        "route": route.name,
        **({} if route.opset is None else {"opset": route.opset}),
        "model": _name(model),
        "method": None if method is None else method_settings(method),
        "input": {
            "shape": [route.fixed_batch or "batch", *x_BCHW.shape[1:]],
            "dtype": "float32",
            "range": "0 to 1 before mean and std",
            **preparation(model),
        },
        "output": "logits [batch, classes], float32",
        "versions": route_versions(route),
        "tolerance": tolerance,
        "differences": [asdict(each) for each in differences],
        "threads": torch.get_num_threads(),
        "speed": [columns(asdict(each)) for each in speeds],
        "notes": list(notes),
    }
    return json.dumps(content, indent=1, default=repr) + "\n"


def method_settings(method: Method) -> dict[str, Any]:
    """A method's name and all its settings, as resolved for the model."""
    return {"name": method.name, "settings": plain_settings(method)}


def preparation(model: nn.Module) -> dict[str, Any]:
    """How images are prepared, in the terms of the model's library; empty if that is not known."""
    try:
        found = preparation_of(model)
    except ValueError:
        return {}
    if found.library == "timm":
        return {key: found.settings[key] for key in PREPARATION}
    return {"prepared_by": found.library, "settings": found.settings}


def route_versions(route: Route) -> dict[str, str]:
    """The versions of vitrim, torch, Python and the packages of the route."""
    found = {name: importlib.metadata.version(name) for name in route.modules}
    return {"vitrim": __version__, "torch": torch.__version__, **found, "python": platform.python_version()}


def _name(model: nn.Module) -> str:
    config: Any = getattr(model, "pretrained_cfg", None) or {}
    return str(config.get("architecture") or type(model).__name__)
