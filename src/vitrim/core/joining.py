"""The features of tokens that others merge into: means, sums, maxima, and means scaled to the largest norm."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from . import portable
from .precision import at_least_fp32
from .tokens import Tokens


def join(
    kept: Tokens, slot_BM: Tensor, rest_BMC: Tensor, share_BM: Tensor, total_BK: Tensor, how: str
) -> tuple[Tensor, Tensor | None]:
    """The features of the kept tokens after the rest has joined, and the factor that scales each mean, if any.

    kept: its memory may be overwritten. slot_BM: the kept patch that each row of rest_BMC joins. share_BM: the row's
    share of the mean. total_BK: the sum of the weights in each kept patch. how: as for `ops.merge`.
    """
    at_BM = slot_BM + kept.num_prefix
    if how == "max":
        index_BMC = at_BM.unsqueeze(2).expand_as(rest_BMC)
        return kept.x_BNC.scatter_reduce_(1, index_BMC, rest_BMC, "amax"), None
    old_BK = _norms(kept.patches_BNC.clone()) if how.endswith("norm") else None  # the features are overwritten below
    x_BNC = portable.move_towards(kept.x_BNC, at_BM, rest_BMC, share_BM.to(rest_BMC.dtype))
    if how == "mean":
        return x_BNC, None
    if old_BK is None:
        received_BK = portable.add_at(torch.zeros_like(total_BK), slot_BM, torch.ones_like(share_BM))
        factor_BK = torch.where(received_BK > 0, total_BK, 1.0)
    else:
        over_BK = old_BK if how == "old_norm" else _norms(x_BNC[:, kept.num_prefix :])
        largest_BK = portable.max_at(old_BK, slot_BM, _norms(rest_BMC))
        factor_BK = largest_BK / over_BK.clamp(min=torch.finfo(over_BK.dtype).tiny)
    factor_BN1 = F.pad(factor_BK, (kept.num_prefix, 0), value=1.0).unsqueeze(2)
    return x_BNC * factor_BN1.to(x_BNC.dtype), factor_BK


def _norms(x_BNC: Tensor) -> Tensor:
    """The norm of each token, at least in fp32: [B, N]."""
    return portable.norm(at_least_fp32(x_BNC)).squeeze(2)
