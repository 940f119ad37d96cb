"""What a schedule costs: multiply-adds by formula, or time by a table measured on this machine.

Time is not linear in tokens: attention kernels work in tiles, so the table has every number of patches where there is
time to measure it. A schedule is a tuple of patches: what enters the first block, then what leaves each.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..backbones.reader import find_stack, restored
from ..core import ops
from ..core.attention import Attention
from ..core.method import Method
from ..core.run import Run
from ..core.spec import ViTSpec
from ..core.tokens import Tokens
from ..measure.budget.formula import reduced_macs
from ..measure.forwards import evaluating
from .resume import Passed, swapped

ROUNDS = 5
TABLE_SECONDS = 40.0  # for the whole table, about


class Cost(Protocol):
    """Cost of a schedule."""

    @property
    def unit(self) -> str:
        """What it is counted in."""

    @property
    def unreduced(self) -> float:
        """Of the unreduced model."""

    def __call__(self, patches: Sequence[int]) -> float:
        """Of the schedule."""


@dataclass(frozen=True)
class Macs:
    """Multiply-adds of one image, in 1e9."""

    spec: ViTSpec
    model_macs: int
    make: Callable[[Sequence[int]], Method]
    unit: str = "GMACs"

    @property
    def unreduced(self) -> float:
        """Of the unreduced model."""
        return self.model_macs / 1e9

    def __call__(self, patches: Sequence[int]) -> float:
        """Of the schedule."""
        return reduced_macs(self.model_macs, self.spec, self.make(patches)) / 1e9


@dataclass(frozen=True)
class Milliseconds:
    """Time of one batch, from the time of one block's parts at each number of patches.

    A block of p patches that lets q out takes attention[p] + mlp[q], and reducing[p] more if q < p.
    """

    attention: Mapping[int, float]
    mlp: Mapping[int, float]
    reducing: Mapping[int, float]
    rest: float  # patch embedding, head and whatever else is outside of the blocks
    depth: int
    num_patches: int
    unit: str = "ms"

    @property
    def unreduced(self) -> float:
        """Of the unreduced model."""
        return self([self.num_patches] * (self.depth + 1))

    def __call__(self, patches: Sequence[int]) -> float:
        """Of the schedule."""
        total = self.rest
        for entering, leaving in pairwise(patches):
            total += _at(self.attention, entering) + _at(self.mlp, leaving)
            total += _at(self.reducing, entering) if leaving < entering else 0.0
        return total


def measure_milliseconds(
    model: nn.Module, images_BCHW: Tensor, makes: Mapping[str, Callable[[Sequence[int]], Method]]
) -> dict[str, Milliseconds]:
    """The tables for a reduced model and batches like this one, on the device where they are.

    One block stands for all. makes: the methods whose own work is timed, by name, each from a schedule.
    """
    with evaluating(model), torch.inference_mode():
        block = _Block(model, images_BCHW)
        spec = block.spec
        unreduced = {p: block.call(p, p) for p in _counts(block)}
        attention = {p: block.call(p, 1) for p in unreduced}
        fewer = {p: p - max(p // 10, 1) for p in list(unreduced)[:: max(len(unreduced) // 12, 1)] if p > 1}
        kept = {p: block.call(p, q) for p, q in fewer.items()}
        reduced = {f"by {name}": {p: block.call(p, q, make) for p, q in fewer.items()} for name, make in makes.items()}
        times = _fastest({"all": unreduced, "one": attention, "kept": kept} | reduced)
    mlp = {p: max(times["all"][p] - times["one"][p], 0.0) for p in unreduced}
    reducing = {name: {p: max(times[f"by {name}"][p] - times["kept"][p], 0.0) for p in fewer} for name in makes}
    table = Milliseconds(times["one"], mlp, {}, 0.0, spec.depth, spec.num_patches)
    with restored(model), evaluating(model), torch.inference_mode():
        whole = min(_milliseconds(lambda: model(images_BCHW)) for _ in range(ROUNDS))
    rest = max(whole - table.unreduced, 0.0)
    return {name: replace(table, reducing=own, rest=rest) for name, own in reducing.items()}


class _Block:
    """One block in the middle, with what a forward of the model calls it with."""

    def __init__(self, model: nn.Module, images_BCHW: Tensor):
        found = find_stack(model)
        assert found is not None, "reduce_tokens comes first"
        self.spec = found.stack.spec
        self.layer = max(self.spec.depth // 2, self.spec.first_reducible_layer)
        name = list(found.stack._modules)[self.layer]
        self.block: Any = found.stack._modules[name]
        found.stack.set_method(Cut(layer=self.spec.depth - 1))  # so that all patches arrive
        calls: list[Any] = []
        with swapped(found.stack, {name: _Called(self.block, calls)}):
            model(images_BCHW)
        self.tokens, self.args, self.kwargs = calls[0]

    def call(
        self, patches: int, kept: int, make: Callable[[Sequence[int]], Method] | None = None
    ) -> Callable[[], object]:
        """The block on so many patches, of which it lets so many out: by a method, or the first ones."""
        tokens, spec = self.tokens, self.spec
        N = spec.num_prefix + patches
        method: Method = Cut(layer=self.layer, count=kept)
        if make is not None:
            counts = (patches,) * (self.layer + 1) + (kept,) * (spec.depth - self.layer)
            method = make(counts).built_for(replace(spec, num_patches=patches))
        B = tokens.x_BNC.shape[0]
        positions = tokens.position_BK
        if tokens.uses_rope:
            positions = torch.arange(patches, device=tokens.x_BNC.device).expand(B, -1)
        entering = tokens._replace(
            x_BNC=tokens.x_BNC[:, :N].contiguous(),
            size_BN=tokens.x_BNC.new_ones(B, N, dtype=torch.float32),
            position_BK=positions,
            run=Run(method),
        )
        return lambda: self.block(entering, *self.args, **self.kwargs)


class _Called(Passed):
    """A block; what it is called with is put into a list."""

    def __init__(self, block: Any, calls: list[Any]):
        super().__init__(block)
        self.__dict__["calls"] = calls

    def forward(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        """What the block computes."""
        self.calls.append((x, args, kwargs))
        return self.block(x, *args, **kwargs)


@dataclass(frozen=True, kw_only=True)
class Cut(Method):
    """Keep the first patches in one block: a reduction that costs next to nothing."""

    name = "cut"

    layer: int = 0
    count: int = 1

    def num_kept(self, layer: int, num_patches: int) -> int:
        return min(self.count, num_patches) if layer == self.layer else num_patches

    def is_active(self, layer: int, num_patches: int) -> bool:
        return self.num_kept(layer, num_patches) < num_patches

    def after_attention(self, layer: int, tokens: Tokens, attention: Attention) -> Tokens:
        first_K = torch.arange(self.count, device=tokens.x_BNC.device)
        return ops.keep(tokens, first_K.expand(tokens.x_BNC.shape[0], -1))


def _counts(block: _Block) -> list[int]:
    """Numbers of patches in the table, all of them if there is time, from the most to one."""
    most = block.spec.num_patches
    once = min(_milliseconds(block.call(most, most)) for _ in range(3)) / 1e3
    room = max(int(TABLE_SECONDS / (1.2 * ROUNDS * once)), 8)  # two of each, half as long in the mean
    step = max(-(-most // room), 1)
    return sorted({*range(most, 0, -step), 1}, reverse=True)


def _fastest(calls: Mapping[str, Mapping[int, Callable[[], object]]]) -> dict[str, dict[int, float]]:
    """Milliseconds of each call: the fastest of several rounds, so that other work on the machine does not count."""
    found = {name: dict.fromkeys(own, float("inf")) for name, own in calls.items()}
    for _ in range(ROUNDS):
        for name, own in calls.items():
            for patches, call in own.items():
                found[name][patches] = min(found[name][patches], _milliseconds(call))
    return found


def _milliseconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return 1e3 * (time.perf_counter() - start)


def _at(table: Mapping[int, float], patches: int) -> float:
    """The table's value, interpolated between the two nearest numbers of patches."""
    if patches in table:
        return table[patches]
    below = max((p for p in table if p < patches), default=None)
    above = min((p for p in table if p > patches), default=None)
    if below is None or above is None:
        return table[above if below is None else below]  # type: ignore[index]
    share = (patches - below) / (above - below)
    return table[below] * (1 - share) + table[above] * share
