"""METR: A Simple Romance Between Multi-Exit Vision Transformer and Token Reduction (ICLR 2024).

The paper's idea, exit heads that are trained along with a method of others, is `vitrim.core.exits`. Here is the pair.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..core.exits import Exits
from ..core.method import Method


def METR(
    *,
    method: Method,
    exits: Sequence[int] | None = None,
    exit_weight: float = 0.15,
    distill_weight: float = 0.15,
    temperature: float = 1.0,
) -> Method:
    """Train exit heads along with a method, so that early class attention can be trusted.

    The same as `replace(method, exits=Exits(layers=exits, ...))`.

    Args:
        method: what reduces the tokens; the paper's is EViT with fusion.
        exits: blocks, 0-based, whose class token feeds a head; None takes the blocks that reduce, at whatever rate.
        exit_weight: factor of the exits' losses.
        distill_weight: factor of their divergences from the final output.
        temperature: of these divergences.

    Raises:
        ValueError: for a method that is none or has exits already, or a setting that `Exits` refuses.

    Source:
        A Simple Romance Between Multi-Exit Vision Transformer and Token Reduction, ICLR 2024.

    >>> METR(method=EViT(keep_rate=0.7)).exits
    Exits(layers=None, exit_weight=0.15, distill_weight=0.15, temperature=1.0)
    """
    if not isinstance(method, Method) or method.exits is not None:
        raise ValueError(f"metr: method must be what reduces the tokens, say EViT(), not {method!r}.")
    beside = Exits(layers=exits, exit_weight=exit_weight, distill_weight=distill_weight, temperature=temperature)
    return replace(method, exits=beside)


def title(method: Method) -> str:
    """What to call a method in a sentence: 'evit', or 'metr over evit' where exits stand beside it."""
    return method.name if method.exits is None else f"{method.exits.name} over {method.name}"
