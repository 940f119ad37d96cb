"""What a search leaves in its folder: report.html, tuned.json and the model."""

from __future__ import annotations

import copy
import json
from pathlib import Path

from torch import nn

from ..api import reduce_tokens
from ..saving.write import save_pretrained
from ..store import replacing_folder, writing
from ..tuned_folder import RESULT
from ..version import __version__
from . import figures
from .outcome import METHOD, RIVAL, TUNED, UNREDUCED, Tuned
from .target import Target

REPORT = "report.html"
KINDS = {TUNED: "tuned", METHOD: "methods at as many multiply-adds", RIVAL: "rivals", UNREDUCED: "unreduced"}


def write(found: Tuned, model: nn.Module, folder: Path) -> None:
    """Fill the folder with the reduced model, as `save_pretrained` writes it, tuned.json and report.html.

    model: the unreduced one.
    """
    tuned = reduce_tokens(copy.deepcopy(model), found.method, **found.settings)
    place = folder.expanduser().resolve()
    with writing(place):
        place.parent.mkdir(parents=True, exist_ok=True)
    with replacing_folder(place) as new:
        save_pretrained(tuned, new, notes=found.answer)
        (new / RESULT).write_text(json.dumps(found.content(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        (new / REPORT).write_text(render(found), encoding="utf-8")


def check_output(folder: Path) -> None:
    """ValueError for a folder that holds something else."""
    others = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file: name a folder for the results.")
    if others and RESULT not in others:
        raise ValueError(f"{folder} holds {others[0]} and no {RESULT}: name another folder for the results.")


def render(found: Tuned) -> str:
    """The page."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    jinja = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    name, value = found.target
    return jinja.get_template("report.html.jinja").render(
        found=found,
        goal=str(Target(name, value)),  # type: ignore[arg-type]
        kinds=KINDS,
        front=Markup(figures.front(found)),
        schedule=Markup(figures.schedule(found)),
        times=Markup(figures.times(found.block_ms)),
        version=__version__,
    )
