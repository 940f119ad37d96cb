"""What a method may see of a block's attention. The N x N matrix is never formed."""

from __future__ import annotations

from functools import reduce
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .precision import product, widen

QUERY_CHUNK = 64  # queries per step where every row of the attention matrix is needed once


class Attention(NamedTuple):
    """Queries, keys and values of one block, [B, H, N, D] each, before they are mixed."""

    q_BHND: Tensor
    k_BHND: Tensor
    v_BHND: Tensor
    scale: float
    bias: Tensor | None = None  # added to the logits of every query, [B, 1, 1, N]
    dropout: float = 0.0

    def output(self) -> Tensor:
        """Softmax(q k^T) v through the fused kernel: [B, H, N, D]."""
        return F.scaled_dot_product_attention(
            self.q_BHND, self.k_BHND, self.v_BHND, self.bias, dropout_p=self.dropout, scale=self.scale
        )

    def rows(self, start: int, stop: int) -> Tensor:
        """Attention of queries start to stop - 1 over all keys, at least in fp32: [B, H, stop - start, N]."""
        query = widen(self.q_BHND[:, :, start:stop]) * self.scale
        logits = product(query, self.k_BHND.transpose(-2, -1))
        return (logits if self.bias is None else logits + self.bias).softmax(dim=-1)

    def cls_row(self) -> Tensor:
        """Attention of the first token, the class token, over all tokens: [B, H, N]."""
        return self.rows(0, 1)[:, :, 0]

    def mean_key(self) -> Tensor:
        """Keys averaged over heads: [B, N, D]. Head by head: reducing over the strided axis at once is far slower."""
        heads = self.k_BHND.unbind(dim=1)
        return reduce(torch.add, heads) / len(heads)

    def received(self) -> Tensor:
        """Attention that each token receives, averaged over all queries, in chunks of queries: [B, H, N]."""
        N = self.q_BHND.shape[2]
        step = min(QUERY_CHUNK, (N + 1) // 2)
        chunks = [self.rows(i, min(i + step, N)).sum(dim=2) for i in range(0, N, step)]
        return torch.stack(chunks).sum(dim=0) / N
