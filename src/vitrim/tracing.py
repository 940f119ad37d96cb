"""Trace every patch through a reduced model.

While something listens, the core tracks which token holds each patch (`Tokens.source_BP`, `Tokens.weight_BP`). This
file is the listener.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor, nn

from .backbones.reader import find_stack
from .core.listening import Follower, Listener, listening
from .core.ops import take
from .core.spec import ViTSpec
from .core.stack import Snapshot, TokenBlock
from .core.tokens import Tokens
from .following import ConvolvedSizes, check_grid, run_uncompiled


@dataclass(frozen=True, eq=False)
class LayerTrace:
    """Which token holds each patch after one block that reduced tokens."""

    layer: int  # index of the block, from 0
    num_tokens: int  # tokens that leave the block, prefix included; the most of any image
    num_prefix: int  # class, distillation and register tokens, which come first
    source_BP: Tensor  # index of the token that holds each patch, prefix counted; -1 if dropped
    weight_BP: Tensor  # weight of each patch in that token; 0 if dropped
    features_BNC: Tensor | None = None  # the block's output, with trace(model, features=True), zero-padded
    num_tokens_B: tuple[int, ...] = ()  # tokens of each image

    @property
    def counted(self) -> str:
        """The number of tokens as text: '104', or '31 to 104' if images differ."""
        fewest = min(self.num_tokens_B, default=self.num_tokens)
        return str(fewest) if fewest == self.num_tokens else f"{fewest} to {self.num_tokens}"

    @property
    def size_BN(self) -> Tensor:
        """The number of patches that each token holds, 0 for the prefix: [B, N]."""
        size = self.source_BP.new_zeros(self.source_BP.shape[0], self.num_tokens)
        return size.scatter_add(1, self.source_BP.clamp(min=0), (self.source_BP >= 0).long())

    def groups(self) -> Tensor:
        """The token of each patch, prefix not counted; -1 if dropped: [B, P]."""
        return (self.source_BP - self.num_prefix).clamp(min=-1)

    def unmerge(self, values_BN: Tensor, fill: float | None = None) -> Tensor:
        """Turn values per token, prefix included, into values per patch: [B, N, ...] -> [B, P, ...].

        A dropped patch gets `fill`, by default NaN. Integers have no NaN and need a fill (ValueError).
        """
        wanted = (self.source_BP.shape[0], self.num_tokens)
        if values_BN.shape[:2] != wanted:
            raise ValueError(
                f"unmerge after block {self.layer} takes one value per token, prefix included: "
                f"[{wanted[0]}, {wanted[1]}, ...], not {list(values_BN.shape)}."
            )
        source_BP = self.source_BP.to(values_BN.device)
        dropped_BP = source_BP < 0
        if fill is None:
            fill = math.nan
            if not values_BN.is_floating_point() and bool(dropped_BP.any()):
                raise ValueError(f"block {self.layer} dropped patches, and {values_BN.dtype} has no NaN: give a fill.")
        values_BP = take(values_BN, source_BP.clamp(min=0))
        if not bool(dropped_BP.any()):
            return values_BP
        return values_BP.masked_fill(dropped_BP.view(*dropped_BP.shape, *[1] * (values_BP.dim() - 2)), fill)


class Trace:
    """The last complete forward pass inside `trace`."""

    def __init__(self, grid: tuple[int, int] | None = None):
        self._given_grid = None if grid is None else check_grid(grid)
        self._forward: _Forward | None = None

    @property
    def layers(self) -> tuple[LayerTrace, ...]:
        """One entry per block that reduced tokens, in order. ValueError before any forward."""
        return self._last().layers

    @property
    def batch_size(self) -> int:
        """Images of the forward pass."""
        return self._last().batch_size

    @property
    def num_patches(self) -> int:
        """Patches of each image before the first block."""
        return self._last().num_patches

    @property
    def num_tokens(self) -> int:
        """Tokens that enter the first block, prefix included."""
        return self._last().num_tokens

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the patches. ValueError if they cannot be determined."""
        num_patches, convolved = self._last().num_patches, self._last().grid
        rows, columns = self._given_grid or convolved or (math.isqrt(num_patches),) * 2
        if rows * columns == num_patches:
            return rows, columns
        if self._given_grid is not None:
            raise ValueError(f"a grid of {rows} x {columns} cannot hold the {num_patches} patches of this forward.")
        raise ValueError(
            f"the rows and columns of the {num_patches} patches cannot be determined: use trace(model, grid=...)."
        )

    def _last(self) -> _Forward:
        if self._forward is None:
            raise ValueError("nothing is traced yet: call the reduced model inside `with vitrim.trace(model) as t:`.")
        return self._forward


@contextmanager
def trace(model: nn.Module, *, features: bool = False, grid: tuple[int, int] | None = None) -> Iterator[Trace]:
    """Follow every patch through a reduced model: `with vitrim.trace(model) as t: model(images)`.

    `t` holds the last complete forward pass only: copy `t.layers` to keep more. The logits are bit-identical. A
    compiled model runs uncompiled inside the `with` block.

    Args:
        model: a reduced model.
        features: whether to keep each reducing block's output as well.
        grid: rows and columns of the patches, needed if no convolution makes them and they form no square.

    Yields:
        The trace, `t`.

    Raises:
        ValueError: If the model is not reduced or is already being traced.
    """
    found = find_stack(model)
    if found is None:
        raise ValueError("a model that is not reduced has nothing to trace: reduce_tokens(model) first.")
    spec, result = found.stack.spec, Trace(grid)
    with ExitStack() as cleanup:
        convolved = ConvolvedSizes()
        cleanup.enter_context(listening(spec, _Tracer(result, spec, convolved, features)))
        cleanup.enter_context(convolved)
        run_uncompiled(cleanup)
        yield result


class _Forward(NamedTuple):
    """One complete forward pass."""

    layers: tuple[LayerTrace, ...]
    batch_size: int
    num_tokens: int
    num_patches: int
    grid: tuple[int, int] | None


class _Tracer(Listener):
    """Fills a `Trace` after each forward that went through all blocks in order."""

    traced = exclusive = True

    def __init__(self, result: Trace, spec: ViTSpec, convolved: ConvolvedSizes, features: bool):
        self.result, self.spec, self.convolved, self.features = result, spec, convolved, features

    def begin(self, x_BNC: Tensor) -> Follower:
        return _Traced(self, x_BNC)


class _Traced(Follower):
    """One forward.

    Gradient checkpointing runs some blocks again during backward. Such runs are either incomplete or the same forward.
    """

    def __init__(self, tracer: _Tracer, x_BNC: Tensor):
        self.tracer, self.x_BNC = tracer, x_BNC
        self.layers: list[LayerTrace] = []
        self.num_blocks_run = 0

    def after_block(self, block: TokenBlock, tokens: Tokens, changed: bool) -> Tokens:
        self.num_blocks_run = self.num_blocks_run + 1 if block.layer == self.num_blocks_run else -1
        if block.layer < self.tracer.spec.first_reducible_layer:  # its tokens may not be the patches
            self.x_BNC = tokens.x_BNC
        elif changed:
            self.layers.append(_layer(Snapshot(block.layer, tokens), self.tracer.features))
        return tokens

    def finish(self, tokens: Tokens) -> None:
        spec, convolved = self.tracer.spec, self.tracer.convolved
        if self.num_blocks_run != spec.depth:
            return
        batch_size, num_tokens, _ = self.x_BNC.shape
        num_patches = num_tokens - spec.num_prefix
        grid = convolved.grid_of(num_patches)
        convolved.sizes.clear()
        self.tracer.result._forward = _Forward(tuple(self.layers), batch_size, num_tokens, num_patches, grid)


def _layer(snapshot: Snapshot, features: bool) -> LayerTrace:
    tokens = snapshot.tokens
    assert tokens.source_BP is not None, "sources are tracked while something listens"
    assert tokens.weight_BP is not None
    return LayerTrace(
        snapshot.layer,
        tokens.num_prefix + tokens.num_patches,
        tokens.num_prefix,
        tokens.source_BP,
        tokens.weight_BP.detach(),
        tokens.padded_BNC.detach() if features else None,
        tokens.num_tokens_B,
    )
