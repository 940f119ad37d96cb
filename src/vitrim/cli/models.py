"""The models of the commands: reduced by --method, as they were saved, or with exit heads."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from . import options
from .reduction import RATE, Reduction

if TYPE_CHECKING:
    from torch import nn

    from ..compare.configuration import Configuration
    from ..compare.fitting import Check, Fit


def load_and_fit(
    model: str,
    checkpoint: Path | None,
    img_size: int | None,
    wanted: tuple[Configuration, ...],
    seed: int,
    check: Check | None = None,
) -> tuple[nn.Module, Fit]:
    """Load an unreduced model, and find the configurations that fit it. `seed` and `check` are those of `fit`."""
    from ..compare.fitting import fit
    from ..loading.build import load_checked

    return load_checked(model, checkpoint, img_size, lambda net: fit(net, wanted, seed, check))


def load_reduced(
    model: str,
    checkpoint: Path | None,
    img_size: int | None,
    wanted: Configuration | None,
    seed: int,
    check: Check | None = None,
) -> tuple[nn.Module, str]:
    """Load a model and reduce it; return it with a name for the output.

    Without a configuration, a saved folder keeps its method, and any other model stays unreduced.
    """
    from ..api import reduce_tokens

    if wanted is None:
        return _as_saved(model, checkpoint, img_size)
    net, fitting = load_and_fit(model, checkpoint, img_size, (wanted,), seed, check)
    options.note(fitting.assumption)
    ((name, method),) = fitting.named.items()
    return reduce_tokens(net, method), f"{model}, {name}"


def _as_saved(model: str, checkpoint: Path | None, img_size: int | None) -> tuple[nn.Module, str]:
    from ..loading.build import load_model
    from ..loading.from_pretrained import load_saved, saved_method
    from ..loading.names import is_saved

    if checkpoint is not None or not is_saved(model):
        return load_model(model, checkpoint, img_size=img_size), model
    method = saved_method(Path(model), exits=False)
    net = load_saved(Path(model), exits=False, img_size=img_size)
    return net, model if method is None else f"{model}, {method.name} as it was saved"


def load_with_exits(model: str, checkpoint: Path | None, reduction: Reduction, img_size: int | None) -> nn.Module:
    """Load a reduced model with its exit heads.

    Without a method in `reduction`, it is that of the saved folder, or EViT for a checkpoint. Raises ValueError for a
    checkpoint without exit heads, and for settings that do not fit.
    """
    from ..api import reduce_tokens
    from ..core.exits import Exits
    from ..loading.build import build_for
    from ..loading.libraries import adapting
    from ..loading.names import is_saved
    from ..loading.weights import exits_in, fit, read_checkpoint

    if checkpoint is None and is_saved(model):
        return _saved_with_exits(model, reduction, img_size)
    if checkpoint is None:
        raise ValueError("pass --checkpoint FILE: the weights of a model trained with METR.")
    wanted = replace(reduction, methods=reduction.methods or "evit").configuration()
    assert wanted is not None
    state = read_checkpoint(checkpoint)
    if not (exits := exits_in(state)):
        raise ValueError(f"{checkpoint} has no exit heads (keys blocks.N.method.exit.*): train the model with METR.")
    net = build_for(model, state, img_size)
    reduce_tokens(net, replace(wanted.make(net), exits=Exits(layers=exits)))
    fit(net, state, model, checkpoint, adapt=adapting(img_size))
    return net


def _saved_with_exits(model: str, reduction: Reduction, img_size: int | None) -> nn.Module:
    from ..backbones.reader import find_stack
    from ..loading.from_pretrained import load_saved

    rates = reduction.amounts.get(RATE, ())
    if reduction.methods is not None or len(reduction.given) > bool(rates) or len(rates) > 1:
        raise ValueError(f"{model} was saved with its method: leave out --method, and give at most one --keep-rate.")
    net = load_saved(Path(model), exits=True, img_size=img_size)
    found = find_stack(net)
    if found is not None and rates:
        found.stack.set_method(found.stack.method.at_keep_rate(rates[0]))
    return net
