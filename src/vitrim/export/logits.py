"""A model of any library as one that gives a single tensor: what a deployed graph returns."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ..facts import every

NAMES = every("outputs")


class Logits(nn.Module):
    """The model with its logits, or the features of a tower without classes, as its only output: [B, K]."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Images [B, C, H, W] to [B, K]; ValueError where the model gives something else."""
        out: Any = self.model(x_BCHW)
        named = [getattr(out, name) for name in NAMES if getattr(out, name, None) is not None]
        found = out if isinstance(out, Tensor) else named[0] if named else None
        if not isinstance(found, Tensor) or found.ndim != 2:
            raise ValueError(f"export takes models that give logits [batch, classes], and {type(out).__name__} came.")
        return found
