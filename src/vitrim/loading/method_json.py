"""Methods as plain values and back, exactly: a tuple stays a tuple and a list a list, for ToMe tells them apart.

A method becomes {"class": "EViT", "settings": {"keep_rate": 0.7, ...}} with all its settings; one with exits beside it,
{"class": "METR", "settings": {"method": {...}, "exits": [3, 6, 9], ...}}. A JSON list is a tuple, which is what
settings are once resolved; a list is {"list": [...]}. Only registered methods can be written, since no
other can be made again elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from ..core.method import Method, plain_settings
from ..methods import METR, classes, parameters
from ..text import shown
from .ranges import check_numbers


def method_to_json(method: Method) -> dict[str, Any]:
    """The method as plain values; ValueError for a method, or a setting, that cannot be made again from them."""
    if method.exits is not None:
        name, settings = METR.__name__, asdict(method.exits)
        settings = {"method": replace(method, exits=None), "exits": settings.pop("layers"), **settings}
        return {"class": name, "settings": {key: _to_json(value, f"{name}.{key}") for key, value in settings.items()}}
    name = type(method).__name__
    if classes().get(name) is not type(method):
        raise ValueError(
            f"{type(method).__module__}.{name} is not registered ({', '.join(sorted(classes()))} are), so a saved "
            "model could not be read again: call vitrim.register_method, or restore(model) first and reduce again "
            "after loading."
        )
    settings = plain_settings(method)
    return {"class": name, "settings": {key: _to_json(value, f"{name}.{key}") for key, value in settings.items()}}


def method_from_json(value: object) -> Method:
    """The method again; ValueError for anything that `method_to_json` does not write."""
    if not isinstance(value, Mapping) or set(value) != {"class", "settings"}:
        raise ValueError(f"a method is written as its class and settings, not as {shown(repr(value))}.")
    name, settings = value["class"], value["settings"]
    make = classes().get(name) if isinstance(name, str) else None
    if make is None:
        raise ValueError(
            f"there is no method class {shown(repr(name))}; there are {', '.join(sorted(classes()))}. Where a package "
            "brings it, install that."
        )
    if not isinstance(settings, Mapping):
        raise ValueError(f"the settings of {name} are names with values, not {shown(repr(settings))}.")
    known = parameters(make)
    unknown = sorted(set(settings) - set(known))
    if unknown:
        raise ValueError(f"{name} has no setting {shown(', '.join(unknown))}; it has {', '.join(known)}.")
    missing = [key for key, each in known.items() if key not in settings and each.default is each.empty]
    if missing:
        raise ValueError(f"{name} needs its setting {', '.join(missing)}.")
    return make(**{key: _from_json(each, f"{name}.{key}") for key, each in settings.items()})


def _to_json(value: object, where: str) -> Any:
    if isinstance(value, Method):
        return method_to_json(value)
    if type(value) is tuple:
        return [_to_json(each, where) for each in value]
    if type(value) is list:
        return {"list": [_to_json(each, where) for each in value]}
    if value is None or type(value) in (bool, int, str) or (type(value) is float and math.isfinite(value)):
        return value
    raise ValueError(f"{where} is {value!r}, and only numbers, words, tuples and lists can be saved.")


def _from_json(value: object, where: str) -> Any:
    if isinstance(value, list):
        return tuple(_from_json(each, where) for each in value)
    if isinstance(value, Mapping) and set(value) == {"list"} and isinstance(value["list"], list):
        return [_from_json(each, where) for each in value["list"]]
    if isinstance(value, Mapping):
        if "class" not in value:
            raise ValueError(f"{where} is {shown(repr(value))}, which is no setting.")
        return method_from_json(value)
    check_numbers(where, value)
    return value
