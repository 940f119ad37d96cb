"""Training what a method learns: its target, a frozen model, and learning rates of its own."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from torch import nn

from ..backbones.reader import find_stack, read_backbone
from ..core.block_view import WEIGHTS
from ..core.method import Method
from ..measure.budget.formula import block_macs
from ..measure.macs import count_macs


def aimed(method: Method, model: nn.Module, gmacs: float | None) -> Method:
    """The method with the share of the blocks' multiply-adds that meets a target for the whole model."""
    if gmacs is None:
        return method
    if "target" not in {each.name for each in fields(method)}:
        raise ValueError(
            f"recipe: gmacs is for methods that learn how much to reduce (diffrate, ltmp), not {method.name}."
        )
    spec, whole = read_backbone(model).spec, count_macs(model)
    blocks = block_macs(spec, None)
    share = (gmacs * 1e9 - (whole - blocks)) / blocks
    if not 0 < share < 1:
        raise ValueError(
            f"recipe: gmacs must lie between {(whole - blocks) / 1e9:.3g} and {whole / 1e9:.3g}, what {spec.name} "
            f"needs without its blocks and with all tokens, not {gmacs:g}."
        )
    return replace(method, target=share)  # type: ignore[call-arg]


def freeze(model: nn.Module) -> None:
    """Let only what the method learns be trained. ValueError if it learns nothing."""
    learned = {name for name, _ in model.named_parameters() if f".{WEIGHTS}." in name}
    learning = [weight for name, weight in model.named_parameters() if name in learned and weight.requires_grad]
    if not learning:
        found = find_stack(model)
        name = "the model" if found is None else found.stack.method.name
        raise ValueError(
            f"recipe: frozen trains only what the method learns, and {name} learns nothing with these settings: set "
            "gmacs (diffrate, ltmp) or settings.learns (dtem), or frozen false."
        )
    for name, weight in model.named_parameters():
        weight.requires_grad_(name in learned and weight.requires_grad)


def train_learned(model: nn.Module) -> None:
    """Set the model to eval mode, and what its method learns to training mode."""
    model.eval()
    found = find_stack(model)
    for block in () if found is None else found.stack.children():
        weights = block._modules.get(WEIGHTS)
        if weights is not None:
            weights.train()


def scale_learned(optimizer: Any, model: nn.Module, factor: float) -> None:
    """Put the weights that the method learns into their own groups, with `factor` times the learning rate.

    A module can ask for more or less for some of its own weights by `lr_scale`, factors by name.
    """
    scales: dict[int, float] = {}
    for path, module in model.named_modules():
        if f".{WEIGHTS}." in f".{path}.":
            own = getattr(module, "lr_scale", {})
            scales |= {id(w): factor * own.get(name, 1) for name, w in module.named_parameters(recurse=False)}
    for group in list(optimizer.param_groups):
        for scale in dict.fromkeys(scales[id(w)] for w in group["params"] if scales.get(id(w), 1) != 1):
            apart = [weight for weight in group["params"] if scales.get(id(weight)) == scale]
            group["params"] = [weight for weight in group["params"] if scales.get(id(weight)) != scale]
            optimizer.add_param_group(group | {"params": apart, "lr_scale": group.get("lr_scale", 1) * scale})
