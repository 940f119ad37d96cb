"""Methods by name: vitrim's own, those that a program registers, and those of installed packages.

A package lists its methods in its metadata, under the entry-point group `vitrim.methods`. Each is a class, or a module
that calls `register_method`. They are loaded when a name is first needed.
"""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, fields, replace
from functools import cache, partial
from importlib.metadata import entry_points
from types import MappingProxyType
from typing import Any, TypeVar, cast

from ..core.exits import Exits
from ..core.method import Method, is_decorated
from ..core.notice import VitrimWarning

GROUP = "vitrim.methods"
NAME = re.compile(r"[a-z][a-z0-9_+-]*")
C = TypeVar("C", bound=type[Method])

SHORT = {"tm": "token_mergence", "bat": "beyond_attentive", "auto": "ward"}  # the papers' names, and the default

_makers: dict[str, Callable[..., Method]] = {}  # a class, a class with some settings fixed, or METR


def register_method(cls: C) -> C:
    """Make your own method known by its name (`cls.name`) everywhere, on the command line and in saved folders too.

    Use it as a decorator, or call it. A package with entry points for `vitrim.methods` need not call it.

    Args:
        cls: a frozen dataclass that inherits from `Method` and has a new name.

    Returns:
        The class.

    Raises:
        ValueError: If it is not such a class, or another method has its name or class name.
    """
    if not (isinstance(cls, type) and issubclass(cls, Method) and cls is not Method and is_decorated(cls)):
        raise ValueError(f"a method must be a frozen dataclass that inherits from vitrim.Method, not {cls!r}.")
    name = getattr(cls, "name", None)
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise ValueError(f"{cls.__name__}: name must be lower-case letters, digits, _, + and -, not {name!r}.")
    without = [each.name for each in fields(cls) if each.default is MISSING and each.default_factory is MISSING]
    if without:
        raise ValueError(f"{cls.__name__}: every setting needs a default, and {', '.join(without)} has none.")
    if name in SHORT:
        raise ValueError(f"{cls.__name__}: {name!r} is short for {SHORT[name]!r}: take another name.")
    for taken, key in ((_makers, name), (_classes(), cls.__name__)):
        other = taken.get(key)
        if other is not None and _home(other) != _home(cls):  # a reloaded module may register the same class again
            raise ValueError(f"{cls.__name__}: another method, {_home(other)}, is already called {key!r}.")
    add(name, cls)
    return cls


def add(name: str, make: Callable[..., Method]) -> None:
    """Add a name, and what makes its method."""
    _makers[name] = make


def makers() -> Mapping[str, Callable[..., Method]]:
    """The function that makes the method of each name."""
    _load_packages()
    return MappingProxyType(_makers)


def list_methods() -> list[str]:
    """The names that `create_method` and `reduce_tokens` accept."""
    return sorted(makers())


def classes() -> Mapping[str, Callable[..., Method]]:
    """The classes of methods, and the function METR, by their Python names."""
    _load_packages()
    return _classes()


def _classes() -> dict[str, Callable[..., Method]]:
    return {make.__name__: make for make in _makers.values() if not isinstance(make, partial)}


def create_method(name: str, **settings: Any) -> Method:
    """Make a method by name.

    Args:
        name: one of `list_methods()`, or tm or bat.
        **settings: settings of the method. The others keep their defaults.

    Returns:
        The method, for `reduce_tokens`.

    Raises:
        ValueError: If the name or a setting is unknown, or a value fits no model.

    >>> create_method("evit", keep_rate=0.5).keep_rate
    0.5
    """
    known, name = makers(), SHORT.get(name, name) if isinstance(name, str) else name
    if not isinstance(name, str) or name not in known:
        raise ValueError(f"no method is called {name!r:.80}; the methods are {', '.join(sorted(known))}.")
    _check_fixed(name, settings)
    try:
        return known[name](**settings)
    except TypeError as error:
        own = settings_of(name)
        unknown = [setting for setting in settings if setting not in own]
        wrong = f"not {' or '.join(unknown)}" if unknown else str(error)
        raise ValueError(f"method {name!r} takes the settings {', '.join(own)}: {wrong}.") from error


def resolve(method: Method | str, exits: Exits | Sequence[int] | None, settings: Mapping[str, Any]) -> Method:
    """A method from a name and its settings, or a method as it is, with these exits. ValueError for anything else."""
    if isinstance(method, str):
        return create_method(method, **settings, **({} if exits is None else {"exits": exits}))
    if settings:
        raise ValueError(
            f"settings {sorted(settings)} go with a method's name, and this method is already made: {method}."
        )
    if not isinstance(method, Method):
        raise ValueError(
            f"method must be a method such as EViT(keep_rate=0.7), or one of the names {', '.join(list_methods())}, "
            f"not a {type(method).__name__}."
        )
    if exits is None:
        return method
    if method.exits is not None:
        raise ValueError(f"this method already has exits: {method}.")
    return replace(method, exits=cast("Exits", exits))


def settings_of(name: str) -> dict[str, Any]:
    """The settings of a method by its name, with their defaults."""
    make = makers()[SHORT.get(name, name)]
    own = {key: each.default for key, each in parameters(make).items()}
    passes_on = any(each.kind is each.VAR_KEYWORD for each in inspect.signature(make).parameters.values())
    return own | settings_of(own["method"]) if passes_on else own  # METR, and those of the method that it takes


def parameters(make: Callable[..., Method]) -> dict[str, inspect.Parameter]:
    """The settings of a method, without `exits`."""
    fixed = make.keywords if isinstance(make, partial) else {}
    beside = {"exits"} if isinstance(make.func if isinstance(make, partial) else make, type) else set()
    found = inspect.signature(make).parameters
    hidden = {*fixed, *beside}
    return {key: each for key, each in found.items() if key not in hidden and each.kind is not each.VAR_KEYWORD}


def _check_fixed(name: str, settings: Mapping[str, Any]) -> None:
    """ValueError for a setting that contradicts the name, such as 'evit-nofuse' with fuse=True."""
    make = makers()[name]
    fixed = make.keywords if isinstance(make, partial) else {}
    for setting, value in settings.items():
        if setting in fixed and value != fixed[setting]:
            plain = next(other for other, each in _makers.items() if isinstance(make, partial) and each is make.func)
            raise ValueError(
                f"{name!r} means {setting}={fixed[setting]!r}, so {setting}={value!r} contradicts it: use {plain!r}."
            )


@cache
def _load_packages() -> None:
    """Register the methods of installed packages. One that fails is left out, with a warning."""
    for entry in entry_points(group=GROUP):
        try:
            found = entry.load()
            if isinstance(found, type):
                register_method(found)
        except Exception as error:  # other packages may raise anything
            reason = str(error).partition("\n")[0]
            warnings.warn(f"the method {entry.value} is left out: {reason}", VitrimWarning, stacklevel=3)


def _home(make: Any) -> str:
    return f"{make.__module__}.{make.__qualname__}"
