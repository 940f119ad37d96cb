"""The reference: the public names, from their docstrings, and the commands with their options."""

from __future__ import annotations

import inspect
import re
from typing import Any

import typer.main

import vitrim
from vitrim.cli import app

from .docstrings import doc_of

MEMBERS = "   :members:\n"
GROUPS = {
    "functions": "Functions",
    "methods": "Methods",
    "classes": "Results and other classes",
    "errors": "Errors",
}


def group_of(thing: object) -> str:
    """On which page a public name stands."""
    if not inspect.isclass(thing):
        return "functions"
    if issubclass(thing, Exception):
        return "errors"
    return "methods" if issubclass(thing, vitrim.Method) else "classes"


def reference_pages() -> dict[str, str]:
    """A page of each group of public names, and one of all, as reStructuredText."""
    groups: dict[str, list[str]] = {group: [] for group in GROUPS}
    for name in vitrim.__all__:
        groups[group_of(getattr(vitrim, name))].append(name)
    pages = {f"reference/{group}.rst": _page(GROUPS[group], names) for group, names in groups.items()}
    return pages | {"reference/index.rst": _index(groups)}


def _index(groups: dict[str, list[str]]) -> str:
    parts = [_title("Python API", "="), "Every name below is imported from ``vitrim``.\n"]
    for group, names in groups.items():
        parts += [_title(GROUPS[group], "-"), ".. list-table::\n   :widths: auto\n"]
        for name in sorted(names, key=str.lower):
            parts.append(f"   * - :py:obj:`~vitrim.{name}`\n     - {_first_line(name)}")
        parts.append("")
    tree = ".. toctree::\n   :hidden:\n\n" + "\n".join(f"   {group}" for group in groups)
    return "\n".join([*parts, tree, ""])


def _page(title: str, names: list[str]) -> str:
    parts = [_title(title, "="), ".. currentmodule:: vitrim\n"]
    for name in sorted(names, key=str.lower):
        thing = getattr(vitrim, name)
        if inspect.isclass(thing):
            own = getattr(thing, "__name__", name) == name
            kind = "autoexception" if issubclass(thing, Exception) else "autoclass"
            is_method = issubclass(thing, vitrim.Method) and thing is not vitrim.Method
            inherited = "   :inherited-members:\n" if thing is vitrim.Method else ""  # the hooks
            parts.append(f".. {kind}:: {name}\n{'' if is_method or not own else MEMBERS + inherited}")
        else:
            parts.append(f".. autofunction:: {name}\n")
    return "\n".join(parts)


def _first_line(name: str) -> str:
    thing = getattr(vitrim, name)
    if inspect.isclass(thing) and thing.__name__ != name:
        return f"The same as `{thing.__name__}`."
    first = re.split(r"\n\s*\n|(?<=\.)\s", doc_of(thing), maxsplit=1)[0]
    return " ".join(first.split())


def _title(text: str, line: str) -> str:
    return f"{text}\n{line * len(text)}\n"


def command_page() -> str:
    """Every command with its options, as Markdown."""
    parts = ["# Command line", "`vitrim COMMAND --help` shows the same in a terminal."]
    group: Any = typer.main.get_command(app)
    for name, command in sorted(group.commands.items()):
        given = " ".join(parameter.name.upper() for parameter in command.params if _is_argument(parameter))
        parts.append(f"## vitrim {name}\n\n```text\nvitrim {name} {given} [OPTIONS]\n```".replace("  ", " "))
        parts.append(inspect.cleandoc(command.help or ""))
        rows = [f"| {_shown(parameter)} | {_help(parameter)} |" for parameter in command.params]
        parts.append("\n".join(["| option | what it sets |", "|---|---|", *rows]))
    return "\n\n".join(parts) + "\n"


def _is_argument(parameter: Any) -> bool:
    return bool(parameter.param_type_name == "argument")


def _shown(parameter: Any) -> str:
    if _is_argument(parameter):
        return f"`{parameter.name.upper()}`"
    return " ".join(f"`{option}`" for option in (*parameter.opts, *parameter.secondary_opts))


def _help(parameter: Any) -> str:
    text = re.sub(r"(?<![`\w])(--[\w-]+)", r"`\1`", " ".join((parameter.help or "").split()))
    text = re.sub(r"([|<*])", r"\\\1", text)
    default = parameter.default
    shown = default not in (None, False, ()) and not callable(default) and str(default) not in text
    return f"{text} Default: `{default}`." if shown and "Sentinel" not in repr(default) else text
