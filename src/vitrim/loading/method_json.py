"""Write methods as JSON and read them back exactly.

A method becomes {"class": "EViT", "settings": {"keep_rate": 0.7, ...}} with all its settings. A method with exits
becomes {"class": "METR", "settings": {"method": {...}, "exits": [3, 6, 9], ...}}. A JSON list is read as a tuple, as
resolved settings are tuples. A Python list is written as {"list": [...]}, since ToMe treats lists and tuples
differently. Only registered methods can be written: another machine could not make any other.
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
    """Return the method as plain values; ValueError if it, or one of its settings, cannot be written."""
    if method.exits is not None:
        name, settings = METR.__name__, asdict(method.exits)
        settings = {"method": replace(method, exits=None), "exits": settings.pop("layers"), **settings}
        return {"class": name, "settings": {key: _to_json(value, f"{name}.{key}") for key, value in settings.items()}}
    name = type(method).__name__
    if classes().get(name) is not type(method):
        raise ValueError(
            f"{type(method).__module__}.{name} is not a registered method, so a saved model could not be loaded: call "
            "vitrim.register_method, or restore(model) before saving and reduce again after loading. Registered are "
            f"{', '.join(sorted(classes()))}."
        )
    settings = plain_settings(method)
    return {"class": name, "settings": {key: _to_json(value, f"{name}.{key}") for key, value in settings.items()}}


def method_from_json(value: object) -> Method:
    """Return the method that `method_to_json` wrote; ValueError for any other value."""
    if not isinstance(value, Mapping) or set(value) != {"class", "settings"}:
        raise ValueError(f"a method must have class and settings, not {shown(repr(value))}.")
    name, settings = value["class"], value["settings"]
    make = classes().get(name) if isinstance(name, str) else None
    if make is None:
        raise ValueError(
            f"there is no method class {shown(repr(name))}; there are {', '.join(sorted(classes()))}. If it is part of "
            "another package, install that package."
        )
    if not isinstance(settings, Mapping):
        raise ValueError(f"the settings of {name} must be names with values, not {shown(repr(settings))}.")
    known = parameters(make)
    unknown = sorted(set(settings) - set(known))
    if unknown:
        raise ValueError(f"{name} has no setting {shown(', '.join(unknown))}; it has {', '.join(known)}.")
    if make is METR and "method" not in settings:
        raise ValueError(f"{name} needs the setting method.")
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
    raise ValueError(f"{where} is {value!r}: only numbers, strings, tuples and lists can be saved.")


def _from_json(value: object, where: str) -> Any:
    if isinstance(value, list):
        return tuple(_from_json(each, where) for each in value)
    if isinstance(value, Mapping) and set(value) == {"list"} and isinstance(value["list"], list):
        return [_from_json(each, where) for each in value["list"]]
    if isinstance(value, Mapping):
        if "class" not in value:
            raise ValueError(f"{where} cannot be {shown(repr(value))}.")
        return method_from_json(value)
    check_numbers(where, value)
    return value
