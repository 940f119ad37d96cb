"""Base of methods that reduce the input of a block, to counts that are shares of the patches at the start."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeVar

from .method import KeepRateMethod
from .schedule import RATE_STEPS, is_whole
from .spec import ViTSpec
from .tokens import Tokens

S = TypeVar("S", bound="StagedMethod")


@dataclass(frozen=True, kw_only=True)
class StagedMethod(KeepRateMethod):
    """Base of methods that reduce before a block, as DynamicViT does: its attention already reads fewer tokens.

    A stage keeps int(P * rate_1 * ... * rate_s) patches, P those of an image. Images of another size take the counts in
    proportion. A method overrides `reduce`.

    patches: P; None means the model's.
    """

    before_attention = True

    patches: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.patches is not None and not (is_whole(self.patches) and self.patches >= 1):
            raise ValueError(f"{self.name}: patches is a whole number of at least 1, not {self.patches!r}.")

    def build(self: S, spec: ViTSpec) -> S:
        patches = spec.num_patches if self.patches is None else self.patches
        built = super(StagedMethod, replace(self, patches=patches)).build(spec)
        assert isinstance(built.layers, tuple)
        if built.layers and built.layers[0] < built.first_layer:
            raise ValueError(
                f"{self.name}: block 0 cannot reduce by the attention of the block before it: start at block 1."
            )
        return built

    def stages(self) -> tuple[int, ...]:
        """Patches before the first stage and after each, exact where a float product is not."""
        assert self.patches is not None, "build() comes first"
        found, part, whole = [self.patches], self.patches, 1
        if isinstance(self.r, tuple):
            for removed in self.r:
                found.append(max(1, found[-1] - removed))
            return tuple(found)
        assert isinstance(self.keep_rate, tuple), "build() comes first"
        for rate in self.keep_rate:
            part, whole = part * round(rate * RATE_STEPS), whole * RATE_STEPS
            found.append(part // whole or 1)
        return tuple(found)

    def stage(self, layer: int) -> tuple[int, int] | None:
        """Patches before and after the stage of block `layer`; None if it has none."""
        assert isinstance(self.layers, tuple), "build() comes first"
        if layer not in self.layers:
            return None
        stages, place = self.stages(), self.layers.index(layer)
        return stages[place], stages[place + 1]

    def num_attentive(self, layer: int, num_patches: int) -> int:
        stage = self.stage(layer)
        return num_patches if stage is None else (num_patches * stage[1] // stage[0]) or 1

    def before_block(self, layer: int, tokens: Tokens) -> Tokens:
        num_kept = self.num_kept(layer, tokens.num_patches)
        return self.reduce(layer, tokens, num_kept) if num_kept < tokens.num_patches else tokens

    def reduce(self, layer: int, tokens: Tokens, num_kept: int) -> Tokens:
        """The input of block `layer` with num_kept patches."""
        raise NotImplementedError
