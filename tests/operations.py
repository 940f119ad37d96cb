"""Which operations of torch run, for tests of what makes a model fast."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

FUSED = "_scaled_dot_product_flash_attention_for_cpu"


class Operations(TorchDispatchMode):
    """Names of the operations that run, and the shapes of what they make."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[tuple[str, tuple[int, ...]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for value in out if isinstance(out, tuple | list) else (out,):
            if isinstance(value, Tensor):
                self.made.append((func.__name__.partition(".")[0], tuple(value.shape)))
        return out

    def named(self, name: str) -> list[tuple[int, ...]]:
        return [shape for made, shape in self.made if made == name]
