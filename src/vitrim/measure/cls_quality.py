"""How well the class token's attention in each block predicts that of the last block.

The argument of METR (A Simple Romance Between Multi-Exit Vision Transformer and Token Reduction, ICLR 2024), made
measurable: methods rank patches by class attention of early blocks, and there it may say little of what will matter.
The measures are ours. The model carries all its tokens meanwhile; attention is averaged over heads, and the class
token's attention to itself and to other prefix tokens is left out. Equal patches share the mean of their ranks.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..api import reduce_tokens, restore
from ..backbones.reader import find_stack, restored
from ..core.attention import Attention
from ..core.method import Method
from ..core.schedule import ceil_share, check_rates
from ..core.spec import ViTSpec
from ..core.tokens import Tokens
from ..heads import check_module
from .batches import Batch, Progress
from .forwards import over_batches


@dataclass(frozen=True)
class ClsQuality:
    """One block against the last one: means over images, with their standard errors (NaN for a single image)."""

    layer: int  # 0-based; the last block agrees with itself
    rank_correlation: float  # Spearman's, over patches; 0 for unrelated rankings, 1 for equal ones
    rank_correlation_error: float
    keep_rates: tuple[float, ...]
    overlaps: tuple[float, ...]  # share of the last block's ceil(keep_rate * P) most attended patches found; by
    # chance it would be the keep rate itself
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
    """Rank correlation and top-k overlap of class attention with the last block's.

    Args:
        model: a Vision Transformer with a class token, reduced or not: it is measured with all its tokens, moved to the
            device, and otherwise left as it was.
        batches: as for `evaluate`; labels play no part.
        keep_rates: shares of patches whose overlap is told.
        device, amp, progress: as for `evaluate`.

    Returns:
        One row per block. A block whose patches are not those of the last block (a multi-scale model's first ones) has
        no row. An image for which a block attends to all patches alike counts as correlation 0.

    Raises:
        UnsupportedModel: where the model cannot be read.
        ValueError: without class token or images.
    """
    check_module(model)
    rates = check_rates(keep_rates, len(keep_rates), "cls_quality")
    with _listening(model) as outputs:

        def agreements(x_BCHW: Tensor, _: Tensor) -> dict[int, Tensor]:
            model(x_BCHW)
            return dict(_agreements(outputs.pop().collected(_Listener.name), rates))

        found = over_batches(model, batches, agreements, device=device, amp=amp, progress=progress).found
    if not found:
        raise ValueError("there was no image to measure class attention on.")
    return tuple(_row(layer, torch.cat([each[layer] for each in found]), rates) for layer in found[0])


def rank_correlation(a_BP: Tensor, b_BP: Tensor) -> Tensor:
    """Spearman's rank correlation of each pair of rows, ties with their mean rank: [B, P] -> [B], float64.

    0 where all values of a row are equal, which ranks nothing.
    """
    a, b = ranks(a_BP) - (a_BP.shape[1] + 1) / 2, ranks(b_BP) - (b_BP.shape[1] + 1) / 2
    square_B = a.square().sum(dim=1) * b.square().sum(dim=1)
    return torch.where(square_B > 0, (a * b).sum(dim=1) / square_B.sqrt().clamp(min=1e-300), 0.0)


def ranks(values_BP: Tensor) -> Tensor:
    """Rank of each value in its row, 1 for the smallest, equal ones with the mean of their ranks: float64."""
    values_BP = values_BP.contiguous()
    ordered_BP = values_BP.sort(dim=1).values
    smaller = torch.searchsorted(ordered_BP, values_BP)
    not_larger = torch.searchsorted(ordered_BP, values_BP, right=True)
    return (smaller + not_larger + 1).double() / 2


def top_overlap(a_BP: Tensor, b_BP: Tensor, keep_rate: float) -> Tensor:
    """Share of the ceil(keep_rate * P) largest of b that are among those of a: [B, P] -> [B], float64.

    Of equal values, the one of lower index goes first, as where tokens are reduced.
    """
    count = ceil_share(keep_rate, a_BP.shape[1])
    return (_top(a_BP, count) & _top(b_BP, count)).sum(dim=1).double() / count


def _top(values_BP: Tensor, count: int) -> Tensor:
    best = values_BP.argsort(dim=1, descending=True, stable=True)[:, :count]
    return torch.zeros_like(values_BP, dtype=torch.bool).scatter(1, best, True)


def _agreements(rows: Sequence[Tensor], rates: Sequence[float]) -> Iterator[tuple[int, Tensor]]:
    """Block by block its rank correlation and overlaps with the last one: [B, 1 + rates]."""
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
    """Reduces nothing, and tells each block's class attention over patches, mean over heads: [B, P]."""

    name = "cls_quality"

    def build(self, spec: ViTSpec) -> Method:
        if not spec.has_cls:
            raise ValueError(f"{self.name} is about the class token's attention, and {spec.name} has no class token.")
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
    """The model with all its tokens, telling what it attends to; as it was afterwards, reduced or not."""
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
