"""Copies of a small model, in a fraction of the time that deepcopy takes."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn


def copies_of(model: nn.Module) -> Callable[[], Any]:
    """What makes independent copies of the model as it is now: pickled once, but for its tensors, which are cloned."""
    tensors: dict[int, Tensor] = {}

    class Leave(pickle.Pickler):
        def persistent_id(self, value: Any) -> int | None:
            return id(tensors.setdefault(id(value), value)) if isinstance(value, Tensor) else None

    content = io.BytesIO()
    Leave(content).dump(model)

    def copied() -> Any:
        clones = {key: _clone(tensor) for key, tensor in tensors.items()}

        class Take(pickle.Unpickler):
            def persistent_load(self, key: int) -> Tensor:
                return clones[key]

        return Take(io.BytesIO(content.getvalue())).load()

    return copied


def _clone(tensor: Tensor) -> Tensor:
    clone = tensor.detach().clone()
    return nn.Parameter(clone, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else clone
