"""A configuration of a comparison: a method by name, its amount of reduction, and its settings."""

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
from ..measure.budget.targets import method_for_keep_rate, method_for_macs
from ..methods import settings_of
from .method_text import Choice, written

KEEP, GMACS = KEEP_RATE.setting, "gmacs"
TARGETS = {KEEP: KEEP_RATE.words, GMACS: "{:g} GMACs"}  # targets to solve for, if a method has another amount


@dataclass(frozen=True)
class Configuration:
    """A method, how much it reduces, and its other settings."""

    method: str  # name
    amount: str | None  # keep_rate, gmacs, or the method's own (`Method.amount`); None if the settings determine it
    value: float  # of the amount
    settings: tuple[tuple[str, Any], ...] = ()  # (name, value) of the other settings

    def __hash__(self) -> int:  # settings may contain lists
        return hash((self.method, self.amount, repr(self.settings)))

    def __post_init__(self) -> None:
        own = create_method(self.method, **dict(self.settings)).amount
        if self.amount == GMACS and not self.value > 0:
            raise ValueError(f"a target in GMACs must be above 0, not {self.value:g}.")
        if self.amount == KEEP:
            KEEP_RATE.check(self.value, self.method)
        elif own is not None and own.setting == self.amount:
            own.check(self.value, self.method)

    @property
    def setting(self) -> str:
        """Amount and settings in words: 'keep 0.7', '3 GMACs', 'r 13', 'keep 0.7, layers 2 4 6'."""
        own = create_method(self.method).amount
        words = TARGETS | ({} if own is None else {own.setting: own.words})
        amount = words.get(self.amount or "", f"{self.amount} {{:g}}").format(self.value) if self.amount else ""
        return ", ".join(part for part in (amount, written(self.settings)) if part)

    @property
    def key(self) -> tuple[str, str]:
        """The key of its row."""
        return self.method, self.setting

    @property
    def varies(self) -> bool:
        """Whether the method is input-adaptive: the number of tokens depends on the image."""
        method = create_method(self.method, **dict(self.settings))
        own = method.amount is not None and method.amount.setting == self.amount
        return (method.at(self.value) if own else method).varies

    def for_model(self, spec: ViTSpec) -> Configuration:
        """Rank by attention received if the model has no class token and no other scorer is set."""
        if spec.has_cls or not takes(self.method, "scorer") or any(name == "scorer" for name, _ in self.settings):
            return self
        return replace(self, settings=(*self.settings, ("scorer", WITHOUT_CLS)))

    def make(self, model: nn.Module, seed: int = 0) -> Method:
        """Make the method for a model. seed: of random methods. Raises ValueError if it does not fit."""
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
    """List every method at every amount that suits it, without repeats.

    A method whose settings determine how much it reduces takes no other amount. If no amount suits a method, and no
    formula can solve for its own, it takes its usual one. Otherwise it takes all amounts, and `make` raises the error.

    Args:
        methods: names, or names with settings.
        keep_rates, gmacs: amounts for all methods.
        settings: for the methods that have them and do not set them already.
        own: values of the methods' own amounts, such as r=[8, 13].

    Raises:
        ValueError: an unknown method, a bad amount, or an amount or setting that no method has.
    """
    choices = [Choice(each) if isinstance(each, str) else each for each in methods]
    given = settings or {}
    if not choices:
        return ()
    for name in given:
        if not any(takes(choice.method, name) for choice in choices):
            raise ValueError(f"{' and '.join(choice.method for choice in choices)} cannot take the setting {name}.")
        if not any(takes(choice.method, name) and name not in choice.settings for choice in choices):
            raise ValueError(f"{name} is already set after the methods' names: give it once.")
    all_amounts = {KEEP: keep_rates, GMACS: gmacs} | own
    amounts = [(setting, value) for setting, values in all_amounts.items() for value in values]
    for setting, _ in amounts:
        if not any(suits(choice.method, setting) for choice in choices):
            check_amount(choices[0].method, setting)
    if amounts and not any(needs_amount(choice) for choice in choices):
        unused = " and ".join(dict.fromkeys(setting for setting, _ in amounts))
        raise ValueError(f"the settings after the methods' names already say how much they reduce: leave out {unused}.")
    return tuple(dict.fromkeys(each for choice in choices for each in _of(choice, amounts, given)))


def needs_amount(choice: Choice) -> bool:
    """Whether its settings do not yet determine how much it reduces."""
    own = create_method(choice.method, **choice.settings).amount
    return own is not None and own.setting not in choice.settings


def _of(choice: Choice, amounts: Sequence[tuple[str, float]], given: Mapping[str, Any]) -> Iterator[Configuration]:
    """Yield the configurations of one method."""
    settings = {name: given[name] for name in given if takes(choice.method, name)} | dict(choice.settings)
    own = create_method(choice.method, **choice.settings).amount
    if own is None or not needs_amount(choice):
        value = None if own is None else settings[own.setting]
        if own is None or not is_number(value):  # no amount, or one value per block
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
    """Whether a method can be set, or solved for, by this amount."""
    own = create_method(method).amount
    return own is not None and (own.setting == amount or (own.solved and amount in TARGETS))


def check_amount(method: str, amount: str) -> None:
    """Raise ValueError if a method cannot be set, or solved for, by this amount."""
    if not suits(method, amount):
        _at(create_method(method), amount, 0)


def takes(method: str, setting: str) -> bool:
    """Whether a method has a setting that its name does not fix already. Raises ValueError for an unknown method."""
    create_method(method)
    return setting in settings_of(method)


def seeded(method: Method, seed: int) -> Method:
    """Set the seed of a method, if it has one."""
    if "seed" in plain_settings(method):
        return replace(cast(Any, method), seed=seed)
    return method


def _at(method: Method, amount: str, value: float) -> Method:
    """Set a method to a value of its own amount. Raises ValueError if its amount is another one."""
    own = method.amount
    if own is None or own.setting != amount:
        other = "" if own is None else f": its amount is {own.setting}, for example {own.usual:g}"
        if own is not None and own.solved:
            other += ". Or pass keep rates or GMACs"
        raise ValueError(f"{method.name} has no {amount}{other}.")
    return method.at(value)
