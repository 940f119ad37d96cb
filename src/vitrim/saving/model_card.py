"""Write the model card, a README.md with the header that the Hugging Face hub reads."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from ..backbones.reader import find_stack, read_backbone, restored
from ..core.method import Method
from ..core.spec import ViTSpec
from ..heads import num_classes
from ..loading.folder import CONFIG_FILE, Config
from ..loading.weights import is_learned
from ..measure.budget.formula import token_counts
from ..measure.macs import count_macs
from ..measure.model_input import input_size_of
from ..text import grouped, shown

TEMPLATE = "model_card.md.jinja"
MOST_METRICS, MOST_OF_RECIPE = 100, 20_000  # lines and characters


@dataclass(frozen=True)
class About:
    """What the user says about a model: see `save_pretrained`."""

    recipe: Any = None
    metrics: Mapping[str, Any] | None = None
    notes: str | None = None  # Markdown
    license: str | None = None  # of the weights, as the hub names it


def model_card(model: nn.Module, config: Config, about: About, source: str) -> str:
    """Return the card of a model that was built from the config. Its multiply-adds are counted here.

    source: the folder or repository that the card's example loads.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    found, method = find_stack(model), config.method
    spec = read_backbone(model).spec if found is None else found.stack.spec
    with restored(model):
        full = _cost(model, spec, None)
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    templates.filters["quoted"] = lambda text: json.dumps(text, ensure_ascii=False)
    return templates.get_template(TEMPLATE).render(
        source=source,
        name=_plain(source.rpartition("/")[2]),
        architecture=config.architecture,
        license=about.license,
        notes=about.notes,
        versions=config.versions,
        num_classes=num_classes(model) or 0,
        size="x".join(map(str, input_size_of(model))),
        library=config.library,
        tags=["vitrim", config.library, "vision-transformer", *_tags(method)],
        method=method,
        method_name=_name(method),
        has_exits=method is not None and method.exits is not None,
        full=full,
        reduced=None if method is None else _cost(model, spec, method),
        parameters=_num_parameters(model, lambda key: not is_learned(key)),
        reduced_parameters=_num_parameters(model, lambda key: not is_learned(key, only_for_training=True)),
        metrics=[(_plain(key), _plain(value)) for key, value in list((config.metrics or {}).items())[:MOST_METRICS]],
        recipe=None if config.recipe is None else _bounded(json.dumps(config.recipe, indent=1)),
    )


def _cost(model: nn.Module, spec: ViTSpec, method: Method | None) -> Mapping[str, str]:
    if method is not None and method.built_for(spec).varies:
        return {"gmacs": "depends on the image", "tokens": "depends on the image"}
    return {"gmacs": f"{count_macs(model) / 1e9:.4g}", "tokens": grouped(token_counts(spec, method))}


def _num_parameters(model: nn.Module, counted: Any) -> str:
    return f"{sum(value.numel() for key, value in model.named_parameters() if counted(key)):,}"


def _tags(method: Method | None) -> list[str]:
    if method is None:
        return []
    return ["token-reduction", *([] if method.exits is None else [method.exits.name]), method.name]


def _name(method: Method | None) -> str:
    return type(method).__name__ + (", trained with METR" if method is not None and method.exits is not None else "")


def _plain(value: object) -> str:
    """Return the value as one short line in which no character acts as Markdown or HTML."""
    return re.sub(r"([\\`*_\[\]<>|~$&])", r"\\\1", shown(value))


def _bounded(text: str) -> str:
    cut = f"{text[:MOST_OF_RECIPE]}\n... (all of it is in {CONFIG_FILE})"
    return text if len(text) <= MOST_OF_RECIPE else cut
