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
from functools import cached_property, partial
from typing import Any, NamedTuple

import vitrim
from vitrim.methods import makers, settings_of

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
    home: Any  # its class; or, of a name that stands for several things together, what makes it
    others: dict[str, dict[str, Any]]  # further names, and the settings that they stand for

    @cached_property
    def public(self) -> list[str]:
        """Its names in vitrim, its own first."""
        found = [name for name in vitrim.__all__ if getattr(vitrim, name) is self.home]
        return sorted(found, key=lambda name: name != self.home.__name__)

    @cached_property
    def title(self) -> str:
        """What tables call it: the shortest of its names."""
        return min(self.public, key=len, default=self.home.__name__)

    @cached_property
    def settings(self) -> list[Setting]:
        """What goes with its name, and what the docstrings say of that: its own, its class's and its bases'."""
        defaults = settings_of(self.name)
        found: dict[str, str] = {}
        hints: dict[str, Any] = {}
        classes = (cls for thing in (self.method, *self._parts) for cls in type(thing).__mro__)
        for thing in dict.fromkeys((self.home, *classes)):
            found = meanings(doc_of(thing), defaults) | found
            hints = _hints(thing) | hints
        return [
            Setting(name, kind_of(hints[name]) if name in hints else "", _shown(default), found.get(name, ""))
            for name, default in defaults.items()
        ]

    @cached_property
    def does(self) -> list[str]:
        """Paragraphs of its own docstring, the settings left out."""
        return prose_of(doc_of(self.home), [setting.name for setting in self.settings])

    @cached_property
    def paper(self) -> str:
        """The first paragraph of its file's docstring: the title, by whom and where; nothing without a docstring."""
        return " ".join(self._files[0][0].split()) if self._files else ""

    @cached_property
    def source(self) -> list[str]:
        """The other paragraphs of its file's docstring, of its package's, and of those of parts that it has."""
        return [part for file in self._files for part in file[1:]]

    @cached_property
    def _files(self) -> list[list[str]]:
        things = [self.home, *(type(part) for part in self._parts if not isinstance(part, vitrim.Method))]
        names = dict.fromkeys(name for thing in things for name in _files(thing.__module__))
        return [parts for name in names if (parts := paragraphs(doc_of(sys.modules[name])))]

    @cached_property
    def _parts(self) -> list[Any]:
        """Values of its fields that have settings of their own."""
        values = [getattr(self.method, field.name) for field in dataclasses.fields(typing.cast(Any, self.method))]
        return [value for value in values if dataclasses.is_dataclass(value)]


def all_methods() -> list[Facts]:
    """The registered methods. Names that set some of a class's settings stand with the class."""
    names: dict[Any, list[str]] = {}
    for name in vitrim.list_methods():
        names.setdefault(_home(name), []).append(name)
    found = []
    for home, known in names.items():
        own = home.name if getattr(home, "name", None) in known else known[0]
        method = vitrim.create_method(own)
        others = {name: _differences(method, vitrim.create_method(name)) for name in known if name != own}
        found.append(Facts(own, method, home, others | _short_names(home, known)))
    return found


def _home(name: str) -> Any:
    """What is documented of a name: the class, or the function, the public one of that name if there is one."""
    make = makers()[name]
    made = make.func if isinstance(make, partial) else make
    if inspect.isclass(made):
        return made
    return next((getattr(vitrim, public) for public in vitrim.__all__ if public.lower() == name), made)


def _files(module: str) -> list[str]:
    """The module's name, after its package's, if that is a method's own."""
    package = module.rpartition(".")[0]
    return [package, module] if package.startswith("vitrim.methods.") else [module]


def _shown(default: Any) -> str:
    return "" if default in (dataclasses.MISSING, inspect.Parameter.empty) else repr(default)


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


def _hints(thing: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(thing)
    except NameError:  # of a name that is imported for the type checker alone
        return {}


def _differences(plain: vitrim.Method, other: vitrim.Method) -> dict[str, Any]:
    names = [field.name for field in dataclasses.fields(typing.cast(Any, plain))]
    return {name: getattr(other, name) for name in names if getattr(other, name) != getattr(plain, name)}


def _short_names(home: Any, known: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Names that are understood and not listed: its public ones in lower case."""
    short = {name.lower() for name in vitrim.__all__ if getattr(vitrim, name) is home} - set(known)
    return {name: {} for name in sorted(short) if _is_name(name)}


def _is_name(name: str) -> bool:
    try:
        vitrim.create_method(name)
    except ValueError:
        return False
    return True
