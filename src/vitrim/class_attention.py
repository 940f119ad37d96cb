"""How well the class attention of each block predicts that of the last block.

Measures the argument of METR (A Simple Romance Between Multi-Exit Vision Transformer and Token Reduction, ICLR 2024):
methods rank patches by the class attention of early blocks, which may be a poor guide. The measures are ours. The model
keeps all its tokens. Attention is averaged over heads, and attention to prefix tokens is left out. Equal patches share
their mean rank.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .api import reduce_tokens, restore
from .backbones.reader import find_stack, restored
from .core.attention import Attention
from .core.method import Method
from .core.schedule import ceil_share, check_rates
from .core.spec import ViTSpec
from .core.tokens import Tokens
from .heads import check_module
from .measure.batches import Batch, Progress
from .measure.forwards import over_batches


@dataclass(frozen=True)
class ClsQuality:
    """A block compared with the last one: means over images, with standard errors (NaN for a single image)."""

    layer: int  # from 0; the last block agrees with itself
    rank_correlation: float  # Spearman's, over patches; 0 for unrelated rankings, 1 for equal ones
    rank_correlation_error: float
    keep_rates: tuple[float, ...]
    overlaps: tuple[float, ...]  # share of the last block's ceil(keep_rate * P) most attended patches that this block
    # finds; at random it would be the keep rate
    overlap_errors: tuple[float, ...]
    num_images: int


def cls_quality(
    model: nn.Module,
    batches: Iterable[Batch | tuple[Tensor, Tensor]],
    *,
    keep_rates: Sequence[float] = (0.7, 0.5, 0.3),
    device: torch.device | str = "cpu",
    amp: bool = False,
    progress: Progress | None = None,
) -> tuple[ClsQuality, ...]:
    """Measure the rank correlation and top-k overlap of each block's class attention with that of the last block.

    Args:
        model: a Vision Transformer with a class token, reduced or not. It is moved to the device, and measured with all
            its tokens.
        batches: as in `evaluate`. Labels are ignored.
        keep_rates: shares of patches for the overlap.
        device, amp, progress: as in `evaluate`.

    Returns:
        One row per block, except for blocks with other patches than the last block (the first ones of a multi-scale
        model). If a block attends equally to all patches of an image, its correlation is 0.

    Raises:
        UnsupportedModel: the model cannot be read.
        ValueError: there is no class token or no image.
    """
    check_module(model)
    rates = check_rates(keep_rates, len(keep_rates), "cls_quality")
    with _listening(model) as outputs:

        def agreements(x_BCHW: Tensor, _: Tensor) -> dict[int, Tensor]:
            model(x_BCHW)
            return dict(_agreements(outputs.pop().collected(_Listener.name), rates))

        found = over_batches(model, batches, agreements, device=device, amp=amp, progress=progress).found
    if not found:
        raise ValueError("there is no image to measure class attention on.")
    return tuple(_row(layer, torch.cat([each[layer] for each in found]), rates) for layer in found[0])


def rank_correlation(a_BP: Tensor, b_BP: Tensor) -> Tensor:
    """Compute Spearman's rank correlation of each pair of rows: [B, P] -> [B], float64.

    Ties share their mean rank. The result is 0 if all values of a row are equal.
    """
    a, b = ranks(a_BP) - (a_BP.shape[1] + 1) / 2, ranks(b_BP) - (b_BP.shape[1] + 1) / 2
    square_B = a.square().sum(dim=1) * b.square().sum(dim=1)
    return torch.where(square_B > 0, (a * b).sum(dim=1) / square_B.sqrt().clamp(min=1e-300), 0.0)


def ranks(values_BP: Tensor) -> Tensor:
    """Rank the values of each row in float64, 1 for the smallest. Ties share their mean rank."""
    values_BP = values_BP.contiguous()
    ordered_BP = values_BP.sort(dim=1).values
    smaller = torch.searchsorted(ordered_BP, values_BP)
    not_larger = torch.searchsorted(ordered_BP, values_BP, right=True)
    return (smaller + not_larger + 1).double() / 2


def top_overlap(a_BP: Tensor, b_BP: Tensor, keep_rate: float) -> Tensor:
    """Compute the share of the ceil(keep_rate * P) largest of b that are also largest in a: [B, P] -> [B], float64.

    Of equal values, the one with the lower index comes first, as in token reduction.
    """
    count = ceil_share(keep_rate, a_BP.shape[1])
    return (_top(a_BP, count) & _top(b_BP, count)).sum(dim=1).double() / count


def _top(values_BP: Tensor, count: int) -> Tensor:
    best = values_BP.argsort(dim=1, descending=True, stable=True)[:, :count]
    return torch.zeros_like(values_BP, dtype=torch.bool).scatter(1, best, True)


def _agreements(rows: Sequence[Tensor], rates: Sequence[float]) -> Iterator[tuple[int, Tensor]]:
    """Yield each block with its rank correlation and overlaps with the last one: [B, 1 + rates]."""
    rows = [row_BP.cpu() for row_BP in rows]  # small, and not every device has float64
    last_BP = rows[-1]
    for layer, row_BP in enumerate(rows):
        if row_BP.shape == last_BP.shape:
            overlaps = [top_overlap(row_BP, last_BP, rate) for rate in rates]
            yield layer, torch.stack([rank_correlation(row_BP, last_BP), *overlaps], dim=1)


def _row(layer: int, agreement_IM: Tensor, rates: tuple[float, ...]) -> ClsQuality:
    num_images = len(agreement_IM)
    means = agreement_IM.mean(dim=0).tolist()
    several = num_images > 1
    errors = agreement_IM.std(dim=0) / math.sqrt(num_images) if several else torch.full((len(means),), math.nan)
    first, *others = errors.tolist()
    return ClsQuality(layer, means[0], first, rates, tuple(means[1:]), tuple(others), num_images)


@dataclass(frozen=True)
class _Listener(Method):
    """Reduce nothing, and publish the class attention over patches of each block, mean over heads: [B, P]."""

    name = "cls_quality"

    def build(self, spec: ViTSpec) -> Method:
        if not spec.has_cls:
            raise ValueError(f"{self.name} needs class attention, but {spec.name} has no class token.")
        return self

    def after_attention(self, layer: int, tokens: Tokens, attention: Attention) -> Tokens:
        if tokens.aux is None:
            return tokens
        B, _, N, _ = attention.q_BHND.shape
        plain = tokens.x_BNC.shape[:2] == (B, N)  # a multi-scale block attends in groups
        row_BP = attention.cls_row().mean(dim=1)[:, tokens.num_prefix :] if plain else tokens.x_BNC[:, :0, 0]
        return tokens.collect(self.name, row_BP)


@contextmanager
def _listening(model: nn.Module) -> Iterator[list[Tokens]]:
    """Run the model with all its tokens, and collect its class attention. Restores the model afterwards."""
    outputs: list[Tokens] = []
    with restored(model):
        reduce_tokens(model, _Listener())
        try:
            found = find_stack(model)
            assert found is not None
            found.stack.collect_outputs(outputs)
            yield outputs
        finally:
            restore(model)
