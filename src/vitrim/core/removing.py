"""Base of methods that remove a number of patches, r, in every block or in a few."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, TypeGuard, TypeVar

from . import schedule
from .amount import Amount, PerBlock
from .method import Method
from .spec import ViTSpec

MOST = 10**6  # no model has more patches

S = TypeVar("S", bound="RemovingMethod")


@dataclass(frozen=True, kw_only=True)
class RemovingMethod(Method):
    """Base of methods that remove r patches in every block, or in the blocks that `layers` names.

    r: one number for all of these blocks; a pair (r, inflect), which runs linearly from r (1 - inflect) in the first to
    r (1 + inflect) in the last; or a list with a number for each. A list for every block may be shorter: 0 follows.
    layers: these blocks, 0-based and increasing. clamp: whether a block that is asked for more than half of its patches
    removes that half; otherwise it is an error.
    """

    R: ClassVar[PerBlock]

    r: int | tuple[int, float] | Sequence[int] = 13
    layers: Sequence[int] | None = None
    clamp: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        schedule.check_reducing(self.layers, self.name)
        if isinstance(self.r, str) or not (schedule.is_whole(self.r) or isinstance(self.r, Sequence)):
            raise ValueError(
                f"{self.name}: r must be a whole number, a pair (r, inflect), or a list with one per block, "
                f"not {self.r!r}."
            )
        counts = self.r if isinstance(self.r, Sequence) else (self.r,)
        if not all(schedule.is_whole(count) and count >= 0 for count in counts[: 1 if _is_pair(self.r) else None]):
            raise ValueError(f"{self.name}: r must be a whole number of at least 0 in every block, not {self.r!r}.")

    @property
    def amount(self) -> Amount:
        return replace(self.R, layers=self.layers_of)

    def default_layers(self, spec: ViTSpec) -> tuple[int, ...]:
        """Where patches are removed if `layers` does not say: in every block."""
        return tuple(range(spec.depth))

    def layers_of(self, spec: ViTSpec) -> tuple[int, ...]:
        """The blocks of one model in which patches are removed."""
        if self.layers is None:
            return self.default_layers(spec)
        return schedule.check_layers(self.layers, spec.depth, self.name)

    def build(self: S, spec: ViTSpec) -> S:
        layers = self.layers_of(spec)
        r = _each(self.r, len(layers), self.name, whole=self.layers is None)
        return replace(self, layers=layers, r=list(r) if len(r) == 2 else r).fits(spec)  # a tuple of two is a pair

    def reducing_layers(self, spec: ViTSpec) -> tuple[int, ...]:
        assert isinstance(self.layers, tuple) and isinstance(self.r, Sequence), "build() comes first"
        return tuple(layer for layer, removed in zip(self.layers, self.r, strict=True) if removed)

    def most_removed(self, num_patches: int) -> int:
        """How many of num_patches one block can remove. Half, if patches of one half merge into the other."""
        return num_patches // 2

    def num_removed(self, layer: int, num_patches: int) -> int:
        """Patches that block `layer` removes. ValueError if it cannot remove as many, unless clamped."""
        assert isinstance(self.layers, tuple) and isinstance(self.r, Sequence), "build() comes first"
        removed = int(self.r[self.layers.index(layer)]) if layer in self.layers else 0
        half, most = num_patches // 2, self.most_removed(num_patches)
        if removed > most and not self.clamp:
            limit = f"half, {most}," if most == half else f"{most}"
            raise ValueError(
                f"{self.name}: r = {removed} in block {layer} is too large: {num_patches} patches enter it and at most "
                f"{limit} can merge. Use a smaller r, a list with one r per block, or clamp=True (--clamp), which "
                f"merges {'half' if most == half else 'these'}."
            )
        return min(removed, most)

    def num_kept(self, layer: int, num_patches: int) -> int:
        return num_patches - self.num_removed(layer, num_patches)

    def is_active(self, layer: int, num_patches: int) -> bool:
        return self.num_removed(layer, num_patches) > 0


def _each(r: int | tuple[int, float] | Sequence[int], count: int, name: str, *, whole: bool) -> tuple[int, ...]:
    """r for each of so many blocks, all of the model or some. A pair is (r, inflect); a list of two is two numbers."""
    if _is_pair(r):
        each: tuple[object, ...] = schedule.linear_r(r[0], r[1], count)
    elif not isinstance(r, Sequence):
        each = (r,) * count
    elif len(r) == count or (whole and len(r) < count):
        each = (*r, *(0,) * (count - len(r)))
    else:
        blocks = f"at most {count} blocks" if whole else f"the {count} blocks that layers names"
        raise ValueError(
            f"{name}: r must be a whole number, a pair (r, inflect), or a list of one number for each of {blocks}, "
            f"not {r!r}."
        )
    counts = tuple(value for value in each if schedule.is_whole(value) and value >= 0)
    if len(counts) != count:
        raise ValueError(f"{name}: r must be a whole number of at least 0 in every block, not {each}.")
    return counts


def _is_pair(r: object) -> TypeGuard[tuple[int, float]]:
    """Whether r is (r, inflect): both numbers that patches, and shares of them, can have."""
    if not isinstance(r, tuple) or len(r) != 2 or not schedule.is_whole(r[0]):
        return False
    return all(isinstance(value, (int, float)) and abs(value) <= MOST for value in r)
