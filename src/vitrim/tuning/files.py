"""What a search leaves in its folder: report.html, tuned.json and the model."""

from __future__ import annotations

import copy
import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from ..api import reduce_tokens
from ..compare.method_text import assigned
from ..report.page import render as render_page
from ..saving.write import save_pretrained
from ..store import replacing_folder, writing
from ..tuned_folder import RESULT
from ..version import __version__
from . import view
from .outcome import Tuned
from .target import Target

REPORT = "report.html"
TEMPLATE = Path(__file__).parent / "tuned.html.jinja"


def write(found: Tuned, model: nn.Module, folder: Path, run: Mapping[str, Any] | None = None) -> None:
    """Fill the folder with the reduced model, as `save_pretrained` writes it, tuned.json and report.html.

    model: the unreduced one. run: what tells this search from others.
    """
    tuned = reduce_tokens(copy.deepcopy(model), found.method, **found.settings)
    place, content = folder.expanduser().resolve(), found.content() | {"run": dict(run or {})}
    with writing(place):
        place.parent.mkdir(parents=True, exist_ok=True)
    with replacing_folder(place) as new:
        save_pretrained(tuned, new, notes=found.answer)
        (new / RESULT).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        (new / REPORT).write_text(render(found), encoding="utf-8")


def render(found: Tuned) -> str:
    """The page."""
    name, value = found.target
    return render_page(
        TEMPLATE,
        found=found,
        goal=str(Target(name, value)),  # type: ignore[arg-type]
        color=view.look_of(found.method).color,
        uses=use_lines(found),
        figures=view.figures(found),
        legend=view.legend(found),
        table=view.table(found),
        version=__version__,
    )


def use_lines(found: Tuned) -> list[tuple[str, str]]:
    """Where each line goes, and the line."""
    method = f"{found.method} {assigned(found.settings)}"
    command = shlex.join(("vitrim", "evaluate", "--model", found.model, "--method", method))
    return [("Python", found.use), ("Command line", command)]
