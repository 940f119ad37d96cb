"""What fewer tokens cost by themselves: as many as a method keeps, taken by a slice."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ...core import ops
from ...core.attention import Attention
from ...core.method import Method
from ...core.spec import ViTSpec
from ...core.tokens import Tokens


@dataclass(frozen=True, kw_only=True)
class Floor(Method):
    """Keep the first patches of every image, as many in each block as another method keeps.

    It scores, matches and merges nothing. So it is as fast as a method with these counts can be, and the time that the
    other method takes beyond it is the cost of the reduction itself. Its predictions mean nothing.

    Args:
        method: the method whose counts are kept. It must not be input-adaptive.

    Raises:
        ValueError: if the method is input-adaptive.
    """

    name = "floor"

    method: Method

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.method.varies:
            raise ValueError(f"{self.method.name} is input-adaptive, so there are no counts that a floor could keep.")

    @property
    def after_mlp(self) -> bool:
        return self.method.after_mlp

    def build(self, spec: ViTSpec) -> Floor:
        return replace(self, method=self.method.built_for(spec))

    def num_kept(self, layer: int, num_patches: int) -> int:
        return self.method.num_kept(layer, num_patches)

    def is_active(self, layer: int, num_patches: int) -> bool:
        return self.num_kept(layer, num_patches) < num_patches

    def after_attention(self, layer: int, tokens: Tokens, attention: Attention) -> Tokens:
        return ops.keep_first(tokens, self.num_kept(layer, tokens.num_patches))
