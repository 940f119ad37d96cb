"""How tokens are reduced: the options for it, declared once, for every command that takes them.

These are short forms. Whatever else a method can be set to is written behind its name, `--methods "tome r=8,13"`, so a
new method needs no option of its own.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import wraps
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .values import LIST, SHARES, Numbers, Several, numbers, wholes

if TYPE_CHECKING:
    from ..compare.configuration import Configuration

PANEL = "Methods"
RATE = "keep_rate"


@dataclass(frozen=True)
class Reduction:
    """What the options of a command ask for; as the default of its parameter `reduction`, what it can be asked.

    methods: text that names them, None for none. many, many_rates: whether several are the rule, of methods and of keep
    rates. amounts: how much is reduced, by name. settings: those with an option of their own.
    """

    methods: str | None
    many: bool = True
    many_rates: bool = False
    amounts: Mapping[str, Several] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)

    def configurations(self, default: Sequence[float] = (0.7,)) -> tuple[Configuration, ...]:
        """All that is asked for; methods to which no amount is given get the default keep rates."""
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
        """The only one that is asked for, none without a method; ValueError for more than one."""
        if self.methods is None:
            if self.given:
                raise ValueError(f"without a --method there is no use for {' and '.join(self.given)}.")
            return None
        found = self.configurations()
        if len(found) > 1:
            raise ValueError("give one method and one of --keep-rate, --gmacs, --r and --mass.")
        return found[0]

    @property
    def given(self) -> list[str]:
        """The options that say more than the methods do."""
        return [f"--{name.replace('_', '-')}" for name in (*self.amounts, *self.settings)]


# What commands take: many for a table, many for pictures (as a rule at one amount), or one.
COMPARED = Reduction("evit,token_mergence,beyond_attentive,tome", many_rates=True)
DRAWN = Reduction(COMPARED.methods)
ONE = Reduction(None, many=False)


def reducing(command: Callable[..., None]) -> Callable[..., None]:
    """The command, with options in place of its parameter `reduction`, which is given what they say."""
    own = inspect.signature(command, eval_str=True).parameters
    asked: Reduction = own["reduction"].default
    options = _options(asked)

    @wraps(command)
    def run(**given: Any) -> None:
        said = {name: given.pop(name) for name in options}
        said |= {RATE: said.pop("keep_rates")}
        said = {name: value for name, value in said.items() if value is not None and value is not False}
        amounts = {name: said[name] for name in (RATE, *AMOUNTS) if name in said}
        settings = {name: said[name] for name in SETTINGS if name in said}
        settings |= {name: tuple(value) for name, value in settings.items() if isinstance(value, Several)}
        command(**given, reduction=replace(asked, methods=said.get("methods"), amounts=amounts, settings=settings))

    parameters: list[inspect.Parameter] = []
    for parameter in own.values():
        parameters += options.values() if parameter.name == "reduction" else [parameter]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {each.name: each.annotation for each in parameters}
    return run


def _options(asked: Reduction) -> dict[str, inspect.Parameter]:
    """The parameters that stand for a reduction."""
    kind: Any
    if asked.many:
        flag, kind = "--methods", str
        text = 'Names, see `vitrim methods`, with settings if any: "evit,tome", or "evit fuse=false; tome r=8,13".'
    else:
        flag, kind, text = "--method", str | None, 'Reduce tokens by this method: "evit", or "evit fuse=false".'
    if asked.many_rates:
        rates = _list(SHARES, "Shares of patches to keep: 0.9,0.7")
    else:
        rates = _list(SHARES, "Share of patches to keep, 0.7 if not given.", "--keep-rate", "--keep-rates")
    found = {"methods": Annotated[kind, typer.Option(flag, help=text, rich_help_panel=PANEL)], "keep_rates": rates}
    defaults = {"methods": asked.methods, "clamp": False}
    return {
        name: inspect.Parameter(
            name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=defaults.get(name), annotation=annotation
        )
        for name, annotation in {**found, **AMOUNTS, **SETTINGS}.items()
    }


def _list(parser: Numbers, text: str, *names: str) -> Any:
    return Annotated[
        Several | None, typer.Option(*names, parser=parser, metavar=LIST, help=text, rich_help_panel=PANEL)
    ]


AMOUNTS = {
    "gmacs": _list(numbers(0, above=True), "Targets in 1e9 multiply-adds: 3.0,2.5"),
    "r": _list(wholes(), "Patches to merge per block, for tome: 8,13", "--r"),
    "mass": _list(SHARES, "Shares of the attention to keep, for attention_mass: 0.9,0.8", "--mass"),
}
SETTINGS = {
    "clamp": Annotated[
        bool,
        typer.Option("--clamp", help="Where --r is more than half of the patches, merge half.", rich_help_panel=PANEL),
    ],
    "layers": _list(wholes(), "Reducing blocks, from 0; otherwise 3,6,9 of 12."),
    "scorer": Annotated[
        str | None,
        typer.Option(help="What ranks patches: cls, received or norm (no class token needed).", rich_help_panel=PANEL),
    ],
}
