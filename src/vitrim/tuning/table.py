"""The time of one block's parts at each number of patches, measured on this machine.

The fused attention of a CPU works in tiles of 16 tokens, so 64 tokens take less time than 63: the table has every
number of patches. Where that takes too long it has both ends of each tile of 8, which are those of 16 and 32 too.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import cycle
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ..backbones.reader import find_stack, restored
from ..core import ops
from ..core.attention import Attention
from ..core.method import Method
from ..core.spec import ViTSpec
from ..core.stack import TokenStack
from ..core.tokens import Tokens
from ..measure.benchmark import wait_for
from ..measure.forwards import evaluating
from .cost import Milliseconds
from .resume import Passed, swapped

FEWEST, MOST = 5, 25  # rounds
SECONDS = 40.0  # for the table, about
TILE = 8  # tokens
LEVELS = 12  # numbers of patches at which a method's own work is timed
Make = Callable[[Sequence[int]], Method]
Call = Callable[[], object]
K = TypeVar("K", bound=Hashable)


def measure_table(model: nn.Module, x_BCHW: Tensor, makes: Mapping[str, Make]) -> dict[str, Milliseconds]:
    """The tables of some methods, for a reduced model and batches like this one, on the device where they are.

    All blocks take turns, so that weights come from where a forward finds them. What a reduced forward takes beyond the
    table is counted to the rest of the model.

    Args:
        model: reduced; its method is another one afterwards.
        x_BCHW: a batch; random numbers are as good as images.
        makes: the methods by name, each from a schedule.
    """
    wait = partial(wait_for, x_BCHW.device)
    with evaluating(model), torch.inference_mode():
        blocks = _Blocks(model, x_BCHW)
        spec, first = blocks.spec, next(iter(makes.values()))
        counts = _counts(spec, min(_milliseconds(blocks.call(spec.num_patches, 1), wait) for _ in range(3)))
        fewer = {p: p - max(p // 10, 1) for p in counts[:: max(len(counts) // LEVELS, 1)] if p > 1}
        calls: dict[tuple[str, int], Call] = {("all", p): blocks.call(p, p) for p in counts}
        calls |= {(str(sized), p): blocks.call(p, 1, sized=sized) for sized in (True, False) for p in counts}
        calls |= {("kept", p): blocks.call(p, q) for p, q in fewer.items()}
        calls |= {(name, p): blocks.call(p, q, make) for name, make in makes.items() for p, q in fewer.items()}
        times, noise = _measured(calls, wait)
        mlp = {p: max(times["all", p] - times["True", p], 0.0) for p in counts}
        found = {}
        for name, make in makes.items():
            sized = make(_example(spec)).size_in_attention
            attention = {p: times[str(sized), p] for p in counts}
            reducing = {p: max(times[name, p] - times["kept", p], 0.0) for p in fewer}
            found[name] = Milliseconds(attention, mlp, reducing, noise=noise)
        blocks.stack.set_method(first(_example(spec)))
        reduced = _measured({"": lambda: model(x_BCHW)}, wait)[0][""]
        with restored(model):
            unreduced = _measured({"": lambda: model(x_BCHW)}, wait)[0][""]
    rest = max(reduced - found[next(iter(makes))](_example(spec)), 0.0)
    return {name: replace(table, rest=rest, unreduced=unreduced) for name, table in found.items()}


class _Blocks:
    """The blocks that can reduce, in turns, each with what a forward of the model calls it with."""

    def __init__(self, model: nn.Module, x_BCHW: Tensor):
        found = find_stack(model)
        assert found is not None, "reduce_tokens comes first"
        self.stack: TokenStack = found.stack
        self.spec = self.stack.spec
        self.stack.set_method(Cut(layer=self.spec.depth - 1))  # so that all patches arrive
        self.called: dict[int, Any] = {}  # tokens, args, kwargs by block
        own = dict(self.stack._modules)
        with swapped(self.stack, {name: _Called(own[name], self.called, i) for i, name in enumerate(own)}):
            model(x_BCHW)
        self.blocks = list(own.values())
        last = self.spec.depth - 1
        middle = range(max(self.spec.first_reducible_layer, 1), last)  # the first and last convert features and tokens
        self._layers = cycle(middle or [last])

    def call(self, patches: int, kept: int, make: Make | None = None, *, sized: bool = True) -> Call:
        """The next block on so many patches, of which it lets so many out: by a method, or the first ones.

        sized: whether attention counts the patches that a token stands for, where none does before the first merge.
        """
        spec, layer = self.spec, next(self._layers)
        block, (tokens, args, kwargs) = self.blocks[layer], self.called[layer]
        method: Method = Cut(layer=layer, count=kept, sized=sized)
        if make is not None:
            counts = (patches,) * (layer + 1) + (kept,) * (spec.depth - layer)
            method = make(counts).built_for(replace(spec, num_patches=patches))
        x_BNC = tokens.x_BNC[:, : spec.num_prefix + patches].contiguous()
        positions = tokens.position_BK
        if tokens.uses_rope:
            positions = torch.arange(patches, device=x_BNC.device).expand(len(x_BNC), -1)
        merged = patches < spec.num_patches
        entering = tokens._replace(
            x_BNC=x_BNC,
            size_BN=x_BNC.new_ones(x_BNC.shape[:2], dtype=torch.float32) if merged else None,
            position_BK=positions,
            run=tokens.run._replace(method=method),
        )
        return lambda: block(entering, *args, **kwargs)


class _Called(Passed):
    """A block; what it is called with is remembered."""

    def __init__(self, block: Any, called: dict[int, Any], layer: int):
        super().__init__(block)
        self.__dict__.update(called=called, layer=layer)

    def forward(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        """What the block computes."""
        out = self.block(x, *args, **kwargs)
        self.called[self.layer] = x, args, kwargs
        return out


@dataclass(frozen=True, kw_only=True)
class Cut(Method):
    """Keep the first patches in one block: a reduction that costs next to nothing."""

    name = "cut"

    layer: int = 0
    count: int = 1
    sized: bool = True

    @property
    def size_in_attention(self) -> bool:
        return self.sized

    def num_kept(self, layer: int, num_patches: int) -> int:
        return min(self.count, num_patches) if layer == self.layer else num_patches

    def is_active(self, layer: int, num_patches: int) -> bool:
        return self.num_kept(layer, num_patches) < num_patches

    def after_attention(self, layer: int, tokens: Tokens, attention: Attention) -> Tokens:
        first_K = torch.arange(self.count, device=tokens.x_BNC.device)
        return ops.keep(tokens, first_K.expand(tokens.x_BNC.shape[0], -1))


def _counts(spec: ViTSpec, once: float) -> list[int]:
    """Numbers of patches in the table, from the most to one. once: milliseconds of a block with all of them."""
    most = spec.num_patches
    room = int(1e3 * SECONDS / (FEWEST * 1.5 * once))  # two calls of each, of which one is short
    found = {p for p in range(1, most + 1) if most <= room or (p + spec.num_prefix) % TILE in (0, TILE - 1)}
    return sorted(found | {1, most}, reverse=True)


def _example(spec: ViTSpec) -> list[int]:
    """A schedule that any model of this kind takes: half of the patches go, a few in each block."""
    start, end = max(spec.depth // 3, spec.first_reducible_layer), spec.depth - 1
    gone = [min(max(i - start, 0) / max(end - start, 1), 1.0) for i in range(spec.depth + 1)]
    return [spec.num_patches - int(spec.num_patches * each / 2) for each in gone]


def _measured(calls: Mapping[K, Call], wait: Call) -> tuple[dict[K, float], float]:
    """Milliseconds of each call, and how far two halves of the rounds are apart, as a share, in the median.

    Every round has every call once, and rounds alternate in direction. The time is the lower quartile, so that other
    work on the machine hardly counts.
    """
    found: dict[K, list[float]] = {name: [] for name in calls}
    began, done = time.monotonic(), 0
    while done < FEWEST or (done < MOST and time.monotonic() - began < SECONDS):
        for name in list(calls)[:: -1 if done % 2 else 1]:
            found[name].append(_milliseconds(calls[name], wait))
        done += 1
    halves = [abs(_quartile(each[::2]) - _quartile(each[1::2])) / _quartile(each) for each in found.values()]
    return {name: _quartile(each) for name, each in found.items()}, statistics.median(halves)


def _quartile(values: Sequence[float]) -> float:
    """The lower one."""
    return sorted(values)[len(values) // 4]


def _milliseconds(call: Call, wait: Call) -> float:
    wait()
    start = time.perf_counter()
    call()
    wait()
    return 1e3 * (time.perf_counter() - start)
