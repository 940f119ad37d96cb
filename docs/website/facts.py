"""What is known of each method: its names, settings and source, from the registry and its docstrings."""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
import types
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import vitrim

from .docstrings import doc_of, meanings, paragraphs, prose_of

ADDRESS = r"https?://\S*[^\s.,;:)]"
SOURCE = re.compile(rf"(Paper|Official code): ({ADDRESS})(?: \(([^;)]*)[^)]*\))?(?:, ([^.]*))?[.]?")
NO_CODE = re.compile(r"No official code is public[^.]*\.")
KINDS = {int: "whole number", float: "number", bool: "true or false", str: "text", type(None): "none"}


class Setting(NamedTuple):
    """One field of a method."""

    name: str
    kind: str
    default: str
    meaning: str


@dataclass(frozen=True)
class Facts:
    """A method by its registered name."""

    name: str
    method: vitrim.Method  # at its defaults
    others: dict[str, dict[str, Any]]  # further names, and the settings that they stand for

    @cached_property
    def value(self) -> Any:
        """What has the settings: the method, or the exits that its name puts beside one."""
        return _value(self.method)

    @cached_property
    def cls(self) -> type[Any]:
        """Its class."""
        return type(self.value)

    @cached_property
    def public(self) -> list[str]:
        """The names of its class in vitrim, its own first."""
        found = [name for name in vitrim.__all__ if getattr(vitrim, name) is self.cls or name.lower() == self.name]
        return sorted(found, key=lambda name: name != self.cls.__name__)

    @cached_property
    def title(self) -> str:
        """What tables call it: the shortest name of its class."""
        return min(self.public, key=len, default=self.cls.__name__)

    @cached_property
    def settings(self) -> list[Setting]:
        """Its fields, with what the docstrings of the class and its bases say of them."""
        names = [field.name for field in dataclasses.fields(self.value) if field.name != "exits"]
        found: dict[str, str] = {}
        for base in self.cls.__mro__:
            found = meanings(doc_of(base), names) | found
        hints = _hints(self.cls)
        return [
            Setting(name, kind_of(hints[name]), repr(getattr(self.value, name)), found.get(name, "")) for name in names
        ]

    @cached_property
    def does(self) -> list[str]:
        """Paragraphs of its class's docstring, the settings left out."""
        return prose_of(doc_of(self.cls), [setting.name for setting in self.settings])

    @cached_property
    def source(self) -> list[str]:
        """Paragraphs of its file's docstring, and before them those of its package, if it has one of its own."""
        module = self.cls.__module__
        package = module.rpartition(".")[0]
        files = [package, module] if package.startswith("vitrim.methods.") else [module]
        return [part for file in files for part in paragraphs(doc_of(sys.modules[file]))]


def all_methods() -> list[Facts]:
    """The registered methods, one entry for all names of a class."""
    names: dict[type[Any], list[str]] = {}
    for name in vitrim.list_methods():
        names.setdefault(type(_value(vitrim.method_from(name))), []).append(name)
    found = []
    for cls, known in names.items():
        own = cls.name if cls.name in known else known[0]
        method = vitrim.method_from(own)
        others = {name: _differences(method, vitrim.method_from(name)) for name in known if name != own}
        found.append(Facts(own, method, others | _short_names(cls, known)))
    return found


def _value(method: vitrim.Method) -> Any:
    return method if method.exits is None else method.exits


def kind_of(hint: Any) -> str:
    """A type in words: 'number or list of numbers'."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hint in KINDS:
        return KINDS[hint]
    if origin is typing.Literal:
        return ", ".join(f"`{choice}`" for choice in inner)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(map(kind_of, inner)))
    if origin is tuple:
        return f"({', '.join(kind_of(each) for each in inner if each is not ...)})"
    if inspect.isclass(origin) and issubclass(origin, Sequence):
        each = kind_of(inner[0]).replace("number", "numbers")
        return f"list of {f'({each})' if ' or ' in each else each}"
    return f"`{getattr(hint, '__name__', hint)}`"


def _hints(cls: type) -> dict[str, Any]:
    try:
        return typing.get_type_hints(cls)
    except NameError:  # of a name that is imported for the type checker alone
        return {field.name: field.type for field in dataclasses.fields(typing.cast(Any, cls))}


def _differences(plain: vitrim.Method, other: vitrim.Method) -> dict[str, Any]:
    names = [field.name for field in dataclasses.fields(typing.cast(Any, plain))]
    return {name: getattr(other, name) for name in names if getattr(other, name) != getattr(plain, name)}


def _short_names(cls: type[Any], known: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Names that are understood and not listed: the lower-case ones of its class."""
    short = {name.lower() for name in vitrim.__all__ if getattr(vitrim, name) is cls} - set(known)
    return {name: {} for name in sorted(short) if _is_name(name)}


def _is_name(name: str) -> bool:
    try:
        vitrim.method_from(name)
    except ValueError:
        return False
    return True
