"""How attention weighs its keys while tokens are masked in training (core/masking.py)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Mask(NamedTuple):
    """How attention weighs its keys, by Σ_j w_j exp(l_ij) v_j / Σ_j w_j exp(l_ij)."""

    weight_BN: Tensor
    eps: float = 0.0  # added to the sum, and shared among all keys, as DynamicViT has it
    sees_itself: bool = False  # whether a token's own key has a weight of at least 1

    def softmax(self, logits_BHMN: Tensor, start: int) -> Tensor:
        """The attention of the queries from `start` on."""
        _, _, M, N = logits_BHMN.shape
        weight_BXMN = self.weight_BN[:, None, None].to(logits_BHMN.dtype)
        if self.sees_itself:
            own_MN = torch.eye(N, dtype=weight_BXMN.dtype, device=weight_BXMN.device)[start : start + M]
            weight_BXMN = weight_BXMN + (1 - weight_BXMN) * own_MN
        with torch.no_grad():
            counted = logits_BHMN if self.eps else logits_BHMN.masked_fill(weight_BXMN == 0, -torch.inf)
            top_BHM1 = counted.amax(dim=-1, keepdim=True)
        above_BHMN = logits_BHMN - top_BHM1
        above_BHMN = torch.where(above_BHMN > 0, 0.0, above_BHMN)  # a masked key must not overflow
        share_BHMN = above_BHMN.exp() * weight_BXMN
        return (share_BHMN + self.eps / N) / (share_BHMN.sum(dim=-1, keepdim=True) + self.eps)
