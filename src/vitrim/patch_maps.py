"""Features for every patch, from the tokens that are left after one block.

Pure functions; `dense` runs the model.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from .core import ops
from .core.precision import at_least_fp32
from .core.tokens import Tokens

Fill = Literal["drift", "last", "nearest", "zero"]  # rules for a dropped patch, see `dense.features`
Shared = Literal["offset", "token", "fill"]  # rules for patches that share a token


class PatchFeatures(NamedTuple):
    """All patches after one block, in order."""

    x_BPC: Tensor
    gone_BP: Tensor | None  # which patches no token represents any more; None: none


def per_patch(tokens: Tokens, before_BPC: Tensor, fill: Fill, shared: Shared) -> PatchFeatures:
    """The features of each patch's token, by the rule for shared tokens. A patch without token keeps its old features.

    before_BPC: the features of all patches after the block before. `filled` applies the rules nearest and zero.
    """
    if tokens.source_BP is None:
        return PatchFeatures(tokens.patches_BNC, None)
    at_BP, gone_BP = tokens.source_BP.clamp(min=0), tokens.source_BP < 0
    x_BNC = tokens.padded_BNC
    x_BPC = ops.take(x_BNC, at_BP)
    if shared != "token":
        size_BN = at_BP.new_zeros(x_BNC.shape[:2]).scatter_add(1, at_BP, (~gone_BP).long())
        shares_BP = size_BN.gather(1, at_BP) > 1
        if shared == "fill":
            gone_BP = gone_BP | shares_BP
        else:
            apart_BPC = before_BPC - _group_means(before_BPC, at_BP, ~gone_BP, x_BNC.shape[1])
            x_BPC = torch.where(shares_BP.unsqueeze(-1), x_BPC + apart_BPC, x_BPC)
    gone_BP1 = gone_BP.unsqueeze(-1)
    if fill == "drift":
        step_BPC = (x_BPC - before_BPC).masked_fill(gone_BP1, 0.0)
        before_BPC = before_BPC + _mean(step_BPC, ~gone_BP1)
    return PatchFeatures(torch.where(gone_BP1, before_BPC, x_BPC), gone_BP)


def _group_means(x_BPC: Tensor, at_BP: Tensor, held_BP: Tensor, num_tokens: int) -> Tensor:
    """The mean over the patches that share a token, for each patch: [B, P, C]. bf16 cannot count beyond 256."""
    B, _, C = x_BPC.shape
    wide_BPC, index_BPC = at_least_fp32(x_BPC), at_BP.unsqueeze(-1).expand(-1, -1, C)
    sum_BNC = wide_BPC.new_zeros(B, num_tokens, C).scatter_add(1, index_BPC, wide_BPC * held_BP.unsqueeze(-1))
    size_BN = wide_BPC.new_zeros(B, num_tokens).scatter_add(1, at_BP, held_BP.to(wide_BPC.dtype))
    return ops.take((sum_BNC / size_BN.clamp(min=1).unsqueeze(-1)).to(x_BPC.dtype), at_BP)


def filled(x_BPC: Tensor, gone_BP: Tensor | None, fill: Fill, columns: int) -> Tensor:
    """Overwrite the patches that are gone, if the rule is nearest or zero: [B, P, C]."""
    if gone_BP is None or fill not in ("nearest", "zero"):
        return x_BPC
    if fill == "nearest":
        return ops.take(x_BPC, _nearest(gone_BP, columns))
    return x_BPC.masked_fill(gone_BP.unsqueeze(-1), 0.0)


def _nearest(gone_BP: Tensor, columns: int) -> Tensor:
    """The nearest patch on the grid that is not gone, for each patch: [B, P]. Ties go to the lower index."""
    P = gone_BP.shape[1]
    index_P = torch.arange(P, device=gone_BP.device)
    row_P, column_P = index_P // columns, index_P % columns
    squared_PP = (row_P[:, None] - row_P).square() + (column_P[:, None] - column_P).square()
    order_PP = squared_PP * P + index_P  # no ties, so every device finds the same
    far = 3 * P**3
    return torch.stack([order_PP.masked_fill(gone_P, far).argmin(dim=1) for gone_P in gone_BP])


def _mean(x_BPC: Tensor, there_BP1: Tensor) -> Tensor:
    """The mean over the patches that are there, in at least fp32: [B, 1, C]. The others must be zero."""
    wide = torch.promote_types(x_BPC.dtype, torch.float32)
    count_B11 = there_BP1.sum(dim=1, keepdim=True).clamp(min=1)
    return (x_BPC.sum(dim=1, keepdim=True, dtype=wide) / count_B11).to(x_BPC.dtype)
