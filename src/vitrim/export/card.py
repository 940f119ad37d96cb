"""The card beside an artefact: what it is, how its images are prepared, and what was measured, as JSON."""

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
from ..measure.evaluate import preparation_of
from ..measure.turns import columns
from ..version import __version__
from .route import Route
from .timing import Speed
from .verify import Difference

PREPARATION = ("mean", "std", "interpolation", "crop_pct", "crop_mode")


def card_path(path: Path) -> Path:
    """Where the card of an artefact lies: model.onnx.json beside model.onnx."""
    return path.with_name(f"{path.name}.json")


def card(
    model: nn.Module,
    method: Method | None,
    route: Route,
    x_BCHW: Tensor,
    tolerance: float,
    differences: Sequence[Difference],
    speeds: Sequence[Speed],
    notes: Sequence[str] = (),
) -> str:
    """The card's text; settings that JSON cannot hold are written as Python shows them."""
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
        "versions": versions(route),
        "tolerance": tolerance,
        "differences": [asdict(each) for each in differences],
        "threads": torch.get_num_threads(),
        "speed": [columns(asdict(each)) for each in speeds],
        "notes": list(notes),
    }
    return json.dumps(content, indent=1, default=repr) + "\n"


def method_settings(method: Method) -> dict[str, Any]:
    """A method's name with all its settings, as resolved for the model."""
    return {"name": method.name, "settings": plain_settings(method)}


def preparation(model: nn.Module) -> dict[str, Any]:
    """How images become input, in the terms of the library that does it; empty where the model does not say."""
    try:
        found = preparation_of(model)
    except ValueError:
        return {}
    if found.library == "timm":
        return {key: found.settings[key] for key in PREPARATION}
    return {"prepared_by": found.library, "settings": found.settings}


def versions(route: Route) -> dict[str, str]:
    """Versions of vitrim, torch, and what the route needs."""

    found = {name: importlib.metadata.version(name) for name in route.modules}
    return {"vitrim": __version__, "torch": torch.__version__, **found, "python": platform.python_version()}


def _name(model: nn.Module) -> str:
    config: Any = getattr(model, "pretrained_cfg", None) or {}
    return str(config.get("architecture") or type(model).__name__)
