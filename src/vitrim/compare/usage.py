"""The lines that use a row: in Python and on the command line, with every setting spelled out."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from ..methods import settings_of
from .method_text import assigned
from .row import Row
from .run_folder import Run

PASSED_ON = ("--model", "--checkpoint", "--data", "--img-size")  # options of a command that others take, too
RIVALS = {  # the lines of rivals, by kind
    "resolution": "model = vitrim.load_model({model!r}, img_size={value})",
    "model": "model = vitrim.load_model({value!r})",
    "depth": "model = vitrim.rivals.fewer_blocks(model, {value})",
    "unread": "model = vitrim.rivals.without_unread(model)",
    "int8": "model = vitrim.quantize_int8(model)",
}


def use_lines(run: Run, row: Row) -> list[tuple[str, str]]:
    """Where each line goes, and the line."""
    python = [_python(run, row)]
    if row.int8 and row.rival != "int8":
        python.append(RIVALS["int8"])
    lines = [("Python", "\n".join(python))]
    command = _command(run, row)
    return [*lines, ("Command line", command)] if command else lines


def own_settings(row: Row) -> dict[str, Any]:
    """The settings that the method's name does not fix, resolved for the model."""
    try:
        known = set(settings_of(row.method))
    except ValueError:  # a method of a program that is not running now
        known = set(row.settings)
    return {name: value for name, value in row.settings.items() if name in known and not isinstance(value, Mapping)}


def _python(run: Run, row: Row) -> str:
    if row.rival:
        value = row.settings.get(row.rival)
        return RIVALS.get(row.rival, "").format(model=run.identity.get("model"), value=value)
    settings = "".join(f", {name}={_plain(value)!r}" for name, value in own_settings(row).items())
    return f'vitrim.reduce_tokens(model, "{row.method}"{settings})'


def _plain(value: object) -> object:
    return tuple(map(_plain, value)) if isinstance(value, list | tuple) else value


def _command(run: Run, row: Row) -> str:
    """A command with the model and images of the run; none for rivals that no option makes."""
    given = _given(run.commands)
    given.setdefault("--model", str(run.identity.get("model")))
    method: tuple[str, str] | None = None
    if row.rival == "resolution":
        given["--img-size"] = str(row.settings.get(row.rival))
    elif row.rival == "model":
        given = {"--model": str(row.settings.get(row.rival))} | {k: v for k, v in given.items() if k == "--data"}
    elif row.rival or row.int8:
        return ""
    else:
        method = ("--method", f"{row.method} {assigned(own_settings(row))}".strip())
    options = [*given.items(), *([method] if method else [])]
    return " \\\n    ".join(["vitrim evaluate", *map(shlex.join, options)])


def _given(commands: Sequence[str]) -> dict[str, str]:
    """The model and images of the last command that names them."""
    found: dict[str, str] = {}
    for command in commands:
        try:
            words = shlex.split(command)
        except ValueError:
            continue
        for word, after in zip(words, [*words[1:], ""], strict=True):
            name, equals, value = word.partition("=")
            if name in PASSED_ON:
                found[name] = value if equals else after
    return found
