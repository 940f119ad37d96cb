"""Wrap a model of any library so that it returns a single tensor, as a deployed graph does."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ..facts import every

NAMES = every("outputs")


class Logits(nn.Module):
    """The model with one output [B, K]: its logits, or the features of a tower without classes."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Map images [B, C, H, W] to [B, K]; ValueError if the model returns something else."""
        out: Any = self.model(x_BCHW)
        named = [getattr(out, name) for name in NAMES if getattr(out, name, None) is not None]
        found = out if isinstance(out, Tensor) else named[0] if named else None
        if not isinstance(found, Tensor) or found.ndim != 2:
            raise ValueError(f"export needs a model that returns logits [batch, classes], not a {type(out).__name__}.")
        return found
