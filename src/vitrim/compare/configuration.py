"""One configuration of a comparison: a method by name, how much it shall reduce, and where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Literal

from torch import nn

from ..api import method_from
from ..backbones.reader import read_backbone
from ..core.method import Method, ViTSpec, check_opaque
from ..core.scored import WITHOUT_CLS
from ..measure.targets import method_for_keep_rate, method_for_macs
from ..methods import settings_of

Amount = Literal["keep_rate", "gmacs", "r", "mass"]
MASSES = (0.9,)  # for methods that keep a share of the attention, where none is asked for


@dataclass(frozen=True)
class Configuration:
    """A method's name, how much it shall reduce, and what else is set, as (name, value).

    How much: a keep rate, a target in GMACs, ToMe's r, or a share of the attention.
    """

    method: str
    amount: Amount
    value: float
    settings: tuple[tuple[str, Any], ...] = ()

    def __post_init__(self) -> None:
        method_from(self.method)
        if self.amount == "keep_rate" and not 0 < self.value <= 1:
            raise ValueError(f"a keep rate is above 0 and at most 1, not {self.value:g}.")
        if self.amount == "gmacs" and not self.value > 0:
            raise ValueError(f"a target in GMACs is above 0, not {self.value:g}.")
        if self.amount == "r" and (self.value < 0 or self.value != int(self.value)):
            raise ValueError(f"r is a whole number of patches, at least 0, not {self.value:g}.")
        if self.amount == "mass" and not 0 < self.value <= 1:
            raise ValueError(f"a mass is above 0 and at most 1, not {self.value:g}.")

    @property
    def setting(self) -> str:
        """In words: 'keep 0.7', '3 GMACs', 'r 13', 'keep 0.7, layers 2 4 6'."""
        names = {"keep_rate": "keep {:g}", "gmacs": "{:g} GMACs", "r": "r {:g}", "mass": "mass {:g}"}
        return ", ".join(
            [names[self.amount].format(self.value), *(f"{name} {_words(value)}" for name, value in self.settings)]
        )

    @property
    def key(self) -> tuple[str, str]:
        """What tells it from others of the same run."""
        return self.method, self.setting

    @property
    def varies(self) -> bool:
        """Whether the number of tokens depends on the image."""
        return self.amount == "mass"

    def for_model(self, spec: ViTSpec) -> Configuration:
        """The same; where there is no class token to rank by, and nothing else was asked for, by attention received."""
        if spec.has_cls or not takes(self.method, "scorer") or any(name == "scorer" for name, _ in self.settings):
            return self
        return replace(self, settings=(*self.settings, ("scorer", WITHOUT_CLS)))

    def make(self, model: nn.Module, seed: int = 0) -> Method:
        """The method for that model. seed: for methods that draw numbers. ValueError where it does not fit."""
        check_amount(self.method, self.amount)
        method, spec = seeded(self._method(model), seed), read_backbone(model).spec
        check_opaque(method.build(spec), spec)
        return method

    def _method(self, model: nn.Module) -> Method:
        settings = dict(self.settings)
        if self.amount == "keep_rate":
            return method_for_keep_rate(self.method, model, self.value, **settings)
        if self.amount == "gmacs":
            return method_for_macs(self.method, model, self.value, **settings)
        if self.amount == "mass":
            return method_from(self.method, mass=self.value, **settings)
        return method_from(self.method, r=int(self.value), **settings)


def configurations(
    methods: Sequence[str],
    keep_rates: Sequence[float] = (),
    gmacs: Sequence[float] = (),
    rs: Sequence[int] = (),
    settings: Mapping[str, Any] | None = None,
    masses: Sequence[float] = (),
) -> tuple[Configuration, ...]:
    """Every method at every amount that suits it, each once; settings go to the methods that have them.

    masses are for the methods that keep a share of the attention, 0.9 if none is given. A method that none of the
    amounts suits comes with all of them, and `make` says why it does not fit.
    ValueError for an unknown method, a bad amount, or an amount or a setting that none of the methods has.
    """
    given = settings or {}
    for name in given:
        if methods and not any(takes(method, name) for method in methods):
            raise ValueError(f"{' and '.join(methods)} cannot be given {name}.")
    amounts: list[tuple[Amount, float]] = [
        *(("keep_rate", rate) for rate in keep_rates),
        *(("gmacs", target) for target in gmacs),
        *(("r", r) for r in rs),
        *(("mass", mass) for mass in masses),
    ]
    for amount, _ in amounts:
        if methods and not any(suits(method, amount) for method in methods):
            check_amount(methods[0], amount)
    found = []
    for method in methods:
        own = tuple((name, given[name]) for name in given if takes(method, name))
        some = [each for each in amounts if suits(method, each[0])]
        usual: list[tuple[Amount, float]] = [("mass", mass) for mass in MASSES] if takes(method, "mass") else amounts
        found += [Configuration(method, *each, own) for each in some or usual]
    return tuple(dict.fromkeys(found))


def suits(method: str, amount: Amount) -> bool:
    """Whether a method can be told how much it shall reduce in that way."""
    return takes(method, "mass") == (amount == "mass") and (amount != "r" or takes(method, "r"))


def check_amount(method: str, amount: Amount) -> None:
    """ValueError where it cannot."""
    if suits(method, amount):
        return
    if takes(method, "mass"):
        raise ValueError(f"{method} decides per image how many patches stay: give it --mass, say 0.9.")
    raise ValueError(f"{method} has no {amount}: give it keep rates or GMACs.")


def takes(method: str, setting: str) -> bool:
    """Whether a method has a setting, and its name has not fixed it already. ValueError for an unknown method."""
    method_from(method)
    return setting in settings_of(method)


def seeded(method: Method, seed: int) -> Method:
    """The method with that seed, if it has one."""
    if is_dataclass(method) and any(field.name == "seed" for field in fields(method)):
        return replace(method, seed=seed)
    return method


def _words(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
