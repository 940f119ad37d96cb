"""Find which configurations fit a model, and why the others do not."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from ..api import create_method, reduce_tokens, restore
from ..backbones.reader import read_backbone
from ..core.method import Method
from ..core.scored import WITHOUT_CLS
from ..core.spec import ViTSpec
from ..text import shown
from .configuration import Configuration
from .row import Key, Refusal

LONGEST = 1000  # characters of a reason

Check = Callable[[Configuration, Method, ViTSpec], None]


@dataclass(frozen=True)
class Fit:
    """The methods that fit, by the keys of their rows, and the refused configurations."""

    methods: Mapping[Key, Method]
    refused: tuple[Refusal, ...]
    assumption: str = ""  # a sentence on defaults that depend on the model

    @property
    def named(self) -> dict[str, Method]:
        """The methods by name and setting, such as 'evit keep 0.7'."""
        return {" ".join(key): method for key, method in self.methods.items()}


def fit(model: nn.Module, configurations: Sequence[Configuration], seed: int = 0, check: Check | None = None) -> Fit:
    """Try each configuration on the model, and leave the model unchanged.

    Args:
        seed: of random methods.
        check: raises ValueError for a configuration to refuse for another reason.

    Raises:
        ValueError: the model cannot be read, or no configuration fits.
    """
    spec = read_backbone(model).spec
    methods: dict[Key, Method] = {}
    refused: list[Refusal] = []
    given = {each.for_model(spec): each for each in configurations}
    for each in given:
        try:
            method = each.make(model, seed)
            if check is not None:
                check(each, method, spec)
            restore(reduce_tokens(model, method))
        except ValueError as error:
            refused.append(Refusal(*each.key, shown(error, LONGEST)))
        else:
            methods[each.key] = method
    check_any(methods, refused)
    scored = _assumption(spec, {taken: one for taken, one in given.items() if taken.key in methods})
    return Fit(methods, tuple(refused), " ".join(filter(None, (scored, _untrained(methods.values())))))


def check_any(measured: object, refused: Sequence[Refusal]) -> None:
    """Raise ValueError with the reasons if nothing is left to measure."""
    if refused and not measured:
        by_reason = dict.fromkeys(each.reason for each in refused)
        by_key = [f"{' '.join(each.key)}: {each.reason}" for each in refused]
        raise ValueError("; ".join(by_reason if len(by_reason) == 1 else by_key))


def _assumption(spec: ViTSpec, given: Mapping[Configuration, Configuration]) -> str:
    """Name the methods that rank patches by another scorer, and those solved for the cost of EViT with it."""
    ranked = _names([taken for taken, asked in given.items() if taken != asked])
    solved = _names([one for one in given if one.amount == "keep_rate" and not create_method(one.method).has_keep_rate])
    by = f"--scorer {WITHOUT_CLS}, the attention each patch receives"
    parts = [f"{ranked} rank{'' if ',' in ranked else 's'} patches by {by}"] if ranked else []
    if solved and not spec.has_cls:
        cost = f"{solved} cost{'' if ',' in solved else 's'} as much as EViT with"
        parts.append(f"{cost} it" if ranked else f"{cost} {by}")
    return f"{spec.name} has no class token: {'; '.join(parts)}." if parts else ""


def _untrained(methods: Iterable[Method]) -> str:
    """Name the methods whose weights mean nothing yet, since they are new here."""
    names = list(dict.fromkeys(method.name for method in methods if method.needs_training))
    if not names:
        return ""
    return (
        f"{', '.join(names)} must be trained first, and runs here with weights that are not: train with `vitrim train` "
        "(docs/training.md), and pass the folder of the trained model as --model."
    )


def _names(configurations: Sequence[Configuration]) -> str:
    return ", ".join(dict.fromkeys(each.method for each in configurations))
