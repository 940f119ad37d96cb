"""Docstrings taken apart: what describes a parameter, and the rest.

A description starts a line or follows a sentence: "keep_rate: share of the patches. layers: reducing blocks", or stands
below Args, "keep_rate (float): ...". It ends with its paragraph, with the next one, or with a sentence whose next line
is not indented. "a, b: text" describes two. A word that is no parameter starts none.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

SECTION = re.compile(r"^(?:Args|Attributes|Parameters|Settings):[ ]*\n", re.M)
ERRORS = r"(?:Errors|Raises|Returns): "
OTHERS = re.compile(r"(?:Raises|Returns|Yields|Examples?|Source):\s*\n")
FIELD = re.compile(r"^    (\w+): [^#\n]+  # (.+(?:\n    # .+)*)$", re.M)
CODE = re.compile(r"(``.*?``|`.*?`)", re.S)


class Parameter(NamedTuple):
    """A description."""

    name: str
    text: str


def doc_of(thing: object) -> str:
    """The docstring that stands on the thing itself, without its indentation; nothing for one that is inherited."""
    return inspect.cleandoc(getattr(thing, "__doc__", None) or "")


def paragraphs(doc: str) -> list[str]:
    """What stands between blank lines."""
    return [part for part in re.split(r"\n[ ]*\n", doc.strip("\n")) if part.strip()]


def is_example(paragraph: str) -> bool:
    """Whether it is one of Python's prompt."""
    return paragraph.lstrip().startswith(">>>")


def take_apart(doc: str, names: Collection[str]) -> list[str | Parameter]:
    """The paragraphs of a docstring and the descriptions of these parameters, in their order."""
    words = "|".join(map(re.escape, names)) or "(?!)"
    entry = re.compile(rf"(?:^ *|(?<=[.;)] ))\*{{0,2}}((?:{words})(?:, \*{{0,2}}(?:{words}))*)(?: \([^)]*\))?: ", re.M)
    found: list[str | Parameter] = []
    for part in paragraphs(doc):
        if is_example(part) or not entry.search(part):
            found.append(part)
            continue
        first, *rest = entry.split(SECTION.sub("", part))
        found += [first.rstrip()] if first.strip() else []
        for named, text in zip(rest[::2], rest[1::2], strict=True):
            text, *others = re.split(rf"(?<=[.;])\n(?! )|(?<=[.;])\s+(?={ERRORS})", text, maxsplit=1)
            found += [Parameter(name.lstrip("*"), " ".join(text.split())) for name in named.split(", ")]
            found += [other for other in others if other.strip()]
    return found


def prose_of(doc: str, names: Collection[str]) -> list[str]:
    """The paragraphs that describe no parameter, examples and other sections left out."""
    prose = [part for part in take_apart(doc, names) if isinstance(part, str)]
    return [part for part in prose if not is_example(part) and not OTHERS.match(part)]


def meanings(doc: str, names: Collection[str]) -> dict[str, str]:
    """What a docstring says of each of these parameters."""
    return dict(part for part in take_apart(doc, names) if isinstance(part, Parameter))


def comments(cls: type) -> dict[str, str]:
    """What comments behind the fields of a class say of them: `latency_ms: float  # of one batch`."""
    try:
        source = inspect.getsource(cls)
    except (OSError, TypeError):
        return {}
    found = {match[1]: match[2] for match in FIELD.finditer(source)}
    return {name: " ".join(text.replace("\n    # ", " ").split()) for name, text in found.items()}


def google(doc: str, names: Collection[str], fields: Mapping[str, str] | None = None) -> list[str]:
    """A docstring for Sphinx, its parameters in a section Args, where the first stood; one that has sections stays.

    fields: what else is known of parameters.
    """
    if SECTION.search(f"{doc}\n"):
        return list(_lines([doc]))
    parts = take_apart(doc, names)
    described = [part for part in parts if isinstance(part, Parameter)]
    known = {part.name for part in described}
    described += [Parameter(*field) for field in (fields or {}).items() if field[0] in names and field[0] not in known]
    if not described:
        return list(_lines([doc]))
    first = parts.index(described[0]) if described[0] in parts else len(parts)
    args = "\n".join(["Args:", *(f"    {name}: {text}" for name, text in described)])
    prose = [part for part in parts[first:] if isinstance(part, str)]
    return list(_lines([*(str(part) for part in parts[:first]), args, *prose]))


def _lines(parts: list[str]) -> Iterator[str]:
    """Lines of paragraphs for reStructuredText, where stars, bars and a last underscore mean something."""
    for part in parts:
        for paragraph in paragraphs(part):
            yield from (paragraph if is_example(paragraph) else escaped(paragraph)).splitlines()
            yield ""


def escaped(text: str) -> str:
    """Prose of a docstring for reStructuredText."""
    parts = CODE.split(text)
    parts[::2] = [re.sub(r"([*|\\]|(?<=\w)_(?!\w))", r"\\\1", part) for part in parts[::2]]
    return "".join(parts)
