"""Which configurations fit a model, and why the others do not: one that does not must not stop the others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from ..api import create_method, reduce_tokens, restore
from ..backbones.reader import read_backbone
from ..core.method import Method
from ..core.scored import WITHOUT_CLS
from ..core.spec import ViTSpec
from ..text import shown
from .configuration import Configuration
from .run_folder import Key, Refusal

LONGEST = 1000  # characters of a reason

Check = Callable[[Configuration, Method, ViTSpec], None]


@dataclass(frozen=True)
class Fit:
    """What fits: methods by the keys of their rows. What does not, with the reasons."""

    methods: Mapping[Key, Method]
    refused: tuple[Refusal, ...]
    assumption: str = ""  # a sentence on what was taken where nothing was asked for

    @property
    def named(self) -> dict[str, Method]:
        """The methods by name and setting: 'evit keep 0.7'."""
        return {" ".join(key): method for key, method in self.methods.items()}


def fit(model: nn.Module, configurations: Sequence[Configuration], seed: int = 0, check: Check | None = None) -> Fit:
    """Try each configuration on the model, which stays as it is.

    seed: for methods that draw numbers. check: what else may speak against one, by a ValueError.
    ValueError for a model that cannot be read, and if nothing fits.
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
    return Fit(
        methods, tuple(refused), _assumption(spec, {taken: one for taken, one in given.items() if taken.key in methods})
    )


def check_any(measured: object, refused: Sequence[Refusal]) -> None:
    """ValueError with the reasons if nothing is left to measure."""
    if refused and not measured:
        by_reason = dict.fromkeys(each.reason for each in refused)
        told = [f"{' '.join(each.key)}: {each.reason}" for each in refused]
        raise ValueError("; ".join(by_reason if len(by_reason) == 1 else told))


def _assumption(spec: ViTSpec, given: Mapping[Configuration, Configuration]) -> str:
    """What is ranked by another scorer than the usual one, and what costs what EViT does with it."""
    ranked = _names([taken for taken, asked in given.items() if taken != asked])
    solved = _names([one for one in given if one.amount == "keep_rate" and not create_method(one.method).has_keep_rate])
    by = f"--scorer {WITHOUT_CLS}, the attention that they receive"
    parts = [f"{ranked} rank{'' if ',' in ranked else 's'} patches by {by}"] if ranked else []
    if solved and not spec.has_cls:
        cost = f"{solved} cost{'' if ',' in solved else 's'} what EViT does with"
        parts.append(f"{cost} it" if ranked else f"{cost} {by}")
    return f"{spec.name} has no class token: {'; '.join(parts)}." if parts else ""


def _names(configurations: Sequence[Configuration]) -> str:
    return ", ".join(dict.fromkeys(each.method for each in configurations))
