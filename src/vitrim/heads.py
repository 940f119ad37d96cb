"""The heads of models: their number of classes, which `num_classes` may not say after a change, and their logits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from .facts import FACTS, every

NOTHING = (nn.Identity, nn.Dropout, nn.Sequential)  # a head of these only is no head
OUTPUTS = every("outputs")


def check_module(model: object) -> None:
    """TypeError unless the argument is a model."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"a model must be a torch.nn.Module, not {type(model).__name__}.")


def classifier_of(model: nn.Module) -> nn.Module | None:
    """The module that gives the logits, the first if there are two; None if it is unknown."""
    get = getattr(model, "get_classifier", None)
    if callable(get):
        found = get()
        found = found[0] if isinstance(found, tuple) else found
        return found if isinstance(found, nn.Module) else None
    for cls in type(model).__mro__:
        facts = FACTS.get(cls.__module__.partition(".")[0])
        if facts is not None and facts.heads and facts.classifiers in cls.__name__:
            heads = (getattr(model, name, None) for name in facts.heads)
            return next((head for head in heads if isinstance(head, nn.Module)), None)
    return None


def num_classes(model: nn.Module) -> int | None:
    """Classes of the model's head, 0 without a head; None if the head does not show it."""
    head = classifier_of(model)
    return None if head is None else width(head, *_channels(model))


def logits_of(output: Any) -> Any:
    """The logits of a classifier: its output, or a field of the output of a transformers model."""
    return getattr(output, "logits", output)


class Logits(nn.Module):
    """The model with one output [B, K]: its logits, or the features of a tower without classes."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Map images [B, C, H, W] to [B, K]; ValueError if the model returns something else."""
        out: Any = self.model(x_BCHW)
        named = [getattr(out, name) for name in OUTPUTS if getattr(out, name, None) is not None]
        found = out if isinstance(out, Tensor) else named[0] if named else None
        if not isinstance(found, Tensor) or found.ndim != 2:
            raise ValueError(f"export needs a model that returns logits [batch, classes], not a {type(out).__name__}.")
        return found


def width(head: nn.Module, *channels: int) -> int | None:
    """Output features of a head. An unknown head is run on zeros; channels: input widths to try."""
    if all(isinstance(part, NOTHING) for part in head.modules()):
        return 0
    last = head[-1] if isinstance(head, nn.Sequential) else head
    for name in ("out_features", "out_channels"):
        if isinstance(found := getattr(last, name, None), int):
            return found
    return _probed(head, [*_inputs(head), *channels])


@torch.no_grad()
def _probed(head: nn.Module, channels: list[int]) -> int | None:
    modes = [(part, part.training) for part in head.modules()]
    weight = next((tensor for tensor in head.parameters() if tensor.is_floating_point()), torch.empty(0))
    head.eval()
    try:
        for count in dict.fromkeys(channels):
            try:
                out = head(weight.new_zeros(2, count))
            except Exception:  # any head may reject a wrong width in its own way
                continue
            if isinstance(out, Tensor) and out.ndim == 2 and len(out) == 2:
                return out.shape[1]
    finally:
        for part, mode in modes:
            part.training = mode
    return None


def _inputs(head: nn.Module) -> Iterator[int]:
    """Input widths that the layers of a head name."""
    for part in head.modules():
        for name in ("in_features", "num_features"):
            if isinstance(found := getattr(part, name, None), int):
                yield found
        if isinstance(part, nn.LayerNorm):
            yield part.normalized_shape[-1]


def _channels(model: Any) -> list[int]:
    """Widths that a model may hand to its head."""
    config = getattr(model, "config", None)
    found = [getattr(model, name, None) for name in ("head_hidden_size", "num_features", "hidden_dim")]
    hidden = getattr(getattr(config, "vision_config", config), "hidden_size", None)
    found += [hidden, 2 * hidden] if isinstance(hidden, int) else []  # DINOv2's head takes two vectors
    return [count for count in found if isinstance(count, int)]
