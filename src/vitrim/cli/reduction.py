"""Options for token reduction, declared once for all commands.

They are short forms of the most used settings. Any other setting is written after the method's name,
`--methods "tome r=8,13"`, so a new method needs no option of its own.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial, wraps
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .values import LIST, SHARES, Numbers, Several, number, whole

if TYPE_CHECKING:
    from ..compare.configuration import Configuration

PANEL = "Methods"
RATE = "keep_rate"


@dataclass(frozen=True)
class Reduction:
    """The reduction that a command line asks for.

    As the default of a command's parameter `reduction`, it says which options the command has.
    """

    methods: str | None  # the text of --methods
    many: bool = True  # --methods instead of --method
    many_rates: bool = False  # --keep-rates instead of --keep-rate
    amounts: Mapping[str, Several] = field(default_factory=dict)  # how much to reduce, by name
    settings: Mapping[str, Any] = field(default_factory=dict)  # settings with an option of their own

    def configurations(self, default: Sequence[float] = (0.7,)) -> tuple[Configuration, ...]:
        """Return all configurations. Methods without an amount get the default keep rates."""
        from ..compare.configuration import configurations, needs_amount, suits, takes
        from ..compare.method_text import read_methods

        choices, own = read_methods(self.methods or ""), dict(self.amounts)
        by_rate = [each.method for each in choices if needs_amount(each) and suits(each.method, RATE)]
        if by_rate and not any(suits(method, amount) for method in by_rate for amount in own):
            own[RATE] = Several(default)
        found = configurations(choices, own.pop(RATE, ()), own.pop("gmacs", ()), self.settings, **own)
        wanted = dict.fromkeys(choice.method for choice in choices)
        for name in self.settings:
            without = [method for method in wanted if not takes(method, name)]
            if without:
                typer.echo(f"note: --{name} does not apply to {', '.join(without)}.", err=True)
        return found

    def configuration(self) -> Configuration | None:
        """Return the only configuration, or None without a method. Raises ValueError if there are several."""
        if self.methods is None:
            if self.given:
                raise ValueError(f"without a --method, {' and '.join(self.given)} would have no effect.")
            return None
        found = self.configurations()
        if len(found) > 1:
            raise ValueError("give one method and one of --keep-rate, --gmacs, --r and --mass.")
        return found[0]

    @property
    def given(self) -> list[str]:
        """The options given in addition to the methods."""
        return [f"--{name.replace('_', '-')}" for name in (*self.amounts, *self.settings)]


# Commands take several methods for a table, several for pictures (usually at one amount), or one.
COMPARED = Reduction("evit,token_mergence,beyond_attentive,tome", many_rates=True)
DRAWN = Reduction(COMPARED.methods)
ONE = Reduction(None, many=False)


def reducing(command: Callable[..., None]) -> Callable[..., None]:
    """Replace a command's parameter `reduction` by options, and pass their values as a Reduction."""
    own = inspect.signature(command, eval_str=True).parameters
    asked: Reduction = own["reduction"].default
    options = _options(asked)

    @wraps(command)
    def run(**given: Any) -> None:
        values = {name: given.pop(name) for name in options}
        values |= {RATE: values.pop("keep_rates")}
        values = {name: value for name, value in values.items() if value is not None and value is not False}
        amounts = {name: values[name] for name in (RATE, *AMOUNTS) if name in values}
        settings = {name: values[name] for name in SETTINGS if name in values}
        settings |= {name: tuple(value) for name, value in settings.items() if isinstance(value, Several)}
        command(**given, reduction=replace(asked, methods=values.get("methods"), amounts=amounts, settings=settings))

    parameters: list[inspect.Parameter] = []
    for parameter in own.values():
        parameters += options.values() if parameter.name == "reduction" else [parameter]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {each.name: each.annotation for each in parameters}
    return run


def _options(asked: Reduction) -> dict[str, inspect.Parameter]:
    """Return the option parameters that replace `reduction`."""
    kind: Any
    if asked.many:
        flag, kind = "--methods", str
        text = 'Names (see `vitrim methods`), maybe with settings: "evit,tome" or "evit fuse=false; tome r=8,13".'
    else:
        flag, kind, text = "--method", str | None, 'Reduce tokens by this method: "evit" or "evit fuse=false".'
    if asked.many_rates:
        rates = _list(SHARES, "Shares of patches to keep: 0.9,0.7")
    else:
        rates = _list(SHARES, "Share of patches to keep. Default: 0.7", "--keep-rate", "--keep-rates")
    default = asked.methods.replace(",", ", ") if asked.methods else False  # breaks between names
    found = {"methods": Annotated[kind, _option(flag, help=text, show_default=default)], "keep_rates": rates}
    defaults = {"methods": asked.methods, "clamp": False}
    new = partial(inspect.Parameter, kind=inspect.Parameter.POSITIONAL_OR_KEYWORD)
    kinds = {**found, **AMOUNTS, **SETTINGS}
    return {name: new(name, default=defaults.get(name), annotation=kind) for name, kind in kinds.items()}


def _option(*names: str, **settings: Any) -> Any:
    return typer.Option(*names, rich_help_panel=PANEL, **settings)


def _list(parser: Numbers, text: str, *names: str) -> Any:
    return Annotated[Several | None, _option(*names, parser=parser, metavar=LIST, help=text)]


AMOUNTS = {
    "gmacs": _list(number(0, above=True, several=True), "Target in billions of multiply-adds: 3.0,2.5"),
    "r": _list(whole(several=True), "Patches to merge per block, for tome: 8,13", "--r"),
    "mass": _list(SHARES, "Share of attention to keep, for attention_mass: 0.9,0.8", "--mass"),
}
SETTINGS = {
    "clamp": Annotated[bool, _option("--clamp", help="If --r exceeds half of the patches, merge half.")],
    "layers": _list(whole(several=True), "Reducing blocks, counted from 0. Default: 3,6,9 of 12 blocks"),
    "scorer": Annotated[
        str | None, _option(help="Rank patches by cls (needs a class token), received, norm or shift.")
    ],
}
