"""One configuration of a comparison: a method by name, how much it shall reduce, and where."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from torch import nn

from ..api import create_method
from ..backbones.reader import read_backbone
from ..core.amount import KEEP_RATE
from ..core.checks import check_reducible
from ..core.method import Method, plain_settings
from ..core.scored import WITHOUT_CLS
from ..core.spec import ViTSpec
from ..kinds import is_number
from ..measure.targets import method_for_keep_rate, method_for_macs
from ..methods import settings_of
from .method_text import Choice, written

KEEP, GMACS = KEEP_RATE.setting, "gmacs"
TARGETS = {KEEP: KEEP_RATE.words, GMACS: "{:g} GMACs"}  # what a method is solved for whose own amount is another


@dataclass(frozen=True)
class Configuration:
    """A method's name, how much it shall reduce, and what else is set, as (name, value).

    amount: keep_rate or gmacs, which a method with another amount is solved for; the method's own (`Method.amount`); or
    None where the settings say it all.
    """

    method: str
    amount: str | None
    value: float
    settings: tuple[tuple[str, Any], ...] = ()

    def __hash__(self) -> int:  # settings may be lists
        return hash((self.method, self.amount, repr(self.settings)))

    def __post_init__(self) -> None:
        own = create_method(self.method, **dict(self.settings)).amount
        if self.amount == GMACS and not self.value > 0:
            raise ValueError(f"a target in GMACs is above 0, not {self.value:g}.")
        if self.amount == KEEP:
            KEEP_RATE.check(self.value, self.method)
        elif own is not None and own.setting == self.amount:
            own.check(self.value, self.method)

    @property
    def setting(self) -> str:
        """In words: 'keep 0.7', '3 GMACs', 'r 13', 'keep 0.7, layers 2 4 6'."""
        own = create_method(self.method).amount
        words = TARGETS | ({} if own is None else {own.setting: own.words})
        amount = words.get(self.amount or "", f"{self.amount} {{:g}}").format(self.value) if self.amount else ""
        return ", ".join(part for part in (amount, written(self.settings)) if part)

    @property
    def key(self) -> tuple[str, str]:
        """What tells it from others of the same run."""
        return self.method, self.setting

    @property
    def varies(self) -> bool:
        """Whether the number of tokens depends on the image."""
        method = create_method(self.method, **dict(self.settings))
        own = method.amount is not None and method.amount.setting == self.amount
        return (method.at(self.value) if own else method).varies

    def for_model(self, spec: ViTSpec) -> Configuration:
        """The same; where there is no class token to rank by, and nothing else was asked for, by attention received."""
        if spec.has_cls or not takes(self.method, "scorer") or any(name == "scorer" for name, _ in self.settings):
            return self
        return replace(self, settings=(*self.settings, ("scorer", WITHOUT_CLS)))

    def make(self, model: nn.Module, seed: int = 0) -> Method:
        """The method for that model. seed: for methods that draw numbers. ValueError where it does not fit."""
        method, spec = seeded(self._method(model), seed), read_backbone(model).spec
        check_reducible(method.built_for(spec), spec)
        return method

    def _method(self, model: nn.Module) -> Method:
        settings = dict(self.settings)
        if self.amount == KEEP:
            return method_for_keep_rate(model, self.method, self.value, **settings)
        if self.amount == GMACS:
            return method_for_macs(model, self.method, self.value, **settings)
        method = create_method(self.method, **settings)
        return method if self.amount is None else _at(method, self.amount, self.value)


def configurations(
    methods: Sequence[Choice | str],
    keep_rates: Sequence[float] = (),
    gmacs: Sequence[float] = (),
    settings: Mapping[str, Any] | None = None,
    **own: Sequence[float],
) -> tuple[Configuration, ...]:
    """Every method at every amount that suits it, each once.

    methods: names, or names with settings. A method whose settings say how much it reduces takes no other amount. One
    that none of the amounts suits takes its usual one, if no formula can solve for it; else it takes all of them, and
    `make` says why it does not fit. settings go to the methods that have them and do not set them otherwise. own:
    values of the methods' own amounts, such as r=[8, 13]. ValueError for an unknown method, a bad amount, or an amount
    or a setting that none of the methods has.
    """
    choices = [Choice(each) if isinstance(each, str) else each for each in methods]
    given = settings or {}
    for name in given:
        if choices and not any(takes(choice.method, name) for choice in choices):
            raise ValueError(f"{' and '.join(choice.method for choice in choices)} cannot be given {name}.")
        if choices and not any(takes(choice.method, name) and name not in choice.settings for choice in choices):
            raise ValueError(f"{name} is set behind the methods' names already: give it once.")
    amounts = [
        (setting, value) for setting, values in ({KEEP: keep_rates, GMACS: gmacs} | own).items() for value in values
    ]
    for setting, _ in amounts:
        if choices and not any(suits(choice.method, setting) for choice in choices):
            check_amount(choices[0].method, setting)
    if amounts and choices and not any(needs_amount(choice) for choice in choices):
        told = " and ".join(dict.fromkeys(setting for setting, _ in amounts))
        raise ValueError(f"what is set behind the methods' names says how much they reduce: leave out {told}.")
    found = dict.fromkeys(each for choice in choices for each in _of(choice, amounts, given))
    return tuple(found)


def needs_amount(choice: Choice) -> bool:
    """Whether its settings leave open how much it reduces."""
    own = create_method(choice.method, **choice.settings).amount
    return own is not None and own.setting not in choice.settings


def _of(choice: Choice, amounts: Sequence[tuple[str, float]], given: Mapping[str, Any]) -> Iterator[Configuration]:
    """The configurations of one method."""
    settings = {name: given[name] for name in given if takes(choice.method, name)} | dict(choice.settings)
    own = create_method(choice.method, **choice.settings).amount
    if own is None or not needs_amount(choice):
        value = None if own is None else settings[own.setting]
        if own is None or not is_number(value):  # nothing, or one value for each block
            yield Configuration(choice.method, None, 0.0, tuple(settings.items()))
            return
        del settings[own.setting]
        yield Configuration(choice.method, own.setting, value, tuple(settings.items()))
        return
    some = [each for each in amounts if suits(choice.method, each[0])]
    usual = amounts if own.solved else [(own.setting, own.usual)]
    for setting, value in some or usual:
        yield Configuration(choice.method, setting, value, tuple(settings.items()))


def suits(method: str, amount: str) -> bool:
    """Whether a method can be told how much it shall reduce in that way."""
    own = create_method(method).amount
    return own is not None and (own.setting == amount or (own.solved and amount in TARGETS))


def check_amount(method: str, amount: str) -> None:
    """ValueError where it cannot."""
    if not suits(method, amount):
        _at(create_method(method), amount, 0)


def takes(method: str, setting: str) -> bool:
    """Whether a method has a setting, and its name has not fixed it already. ValueError for an unknown method."""
    create_method(method)
    return setting in settings_of(method)


def seeded(method: Method, seed: int) -> Method:
    """The method with that seed, if it has one."""
    if "seed" in plain_settings(method):
        return replace(cast(Any, method), seed=seed)
    return method


def _at(method: Method, amount: str, value: float) -> Method:
    """The method at a value of its own amount; ValueError where that is another."""
    own = method.amount
    if own is None or own.setting != amount:
        other = "" if own is None else f": its amount is {own.setting}, {own.usual:g} say"
        if own is not None and own.solved:
            other += ", or give it keep rates or GMACs"
        raise ValueError(f"{method.name} has no {amount}{other}.")
    return method.at(value)
