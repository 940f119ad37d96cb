"""METR: A Simple Romance Between Multi-Exit Vision Transformer and Token Reduction (ICLR 2024).

Its exit heads work with any method (`vitrim.core.exits`). `METR` is the pair of a method and exits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ..core.exits import Exits
from ..core.method import Method
from .registry import resolve


def METR(
    *,
    method: Method | str = "evit",
    exits: Sequence[int] | None = None,
    exit_weight: float = 0.15,
    distill_weight: float = 0.15,
    temperature: float = 1.0,
    **settings: Any,
) -> Method:
    """Train exit heads along with a method, so that early class attention can be trusted.

    The same as `replace(method, exits=Exits(layers=exits, ...))`.

    Args:
        method: the method that reduces tokens, or its name. The paper's is EViT with fusion.
        exits: 0-based blocks whose class token feeds a head. None takes the reducing blocks, even at a keep rate of 1.
        exit_weight: factor of the exits' losses.
        distill_weight: factor of their divergences from the final output.
        temperature: temperature of these divergences.
        **settings: the settings of a method that is given by its name.

    Raises:
        ValueError: If `method` is not a method or already has exits, or a setting is refused.

    Source:
        A Simple Romance Between Multi-Exit Vision Transformer and Token Reduction, ICLR 2024.

    >>> METR(method=EViT(keep_rate=0.7)).exits
    Exits(layers=None, exit_weight=0.15, distill_weight=0.15, temperature=1.0)
    """
    made = resolve(method, None, settings)
    if made.exits is not None:
        raise ValueError(f"metr: method must be one without exits, such as EViT(), not {made}.")
    beside = Exits(layers=exits, exit_weight=exit_weight, distill_weight=distill_weight, temperature=temperature)
    return replace(made, exits=beside)


def title(method: Method) -> str:
    """A method's name in a sentence: 'evit', or 'metr over evit' with exits."""
    return method.name if method.exits is None else f"{method.exits.name} over {method.name}"
