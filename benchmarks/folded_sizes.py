"""ToMe's log(size) folded into spare channels of every head, in place of a bias that is added as a mask.

A mask rules out the fastest attention kernels of CUDA. Channels beyond those of the head can carry the same sum: a
query of 1 / scale against a key of log(size) adds log(size) to the scaled product. Exact in fp32. Here to be compared.
"""

from __future__ import annotations

from typing import Any, cast

import torch.nn.functional as F
from torch import Tensor, nn

from vitrim.core.attention import Attention
from vitrim.core.block_reader import BlockReader
from vitrim.core.stack import TokenBlock, TokenStack

SPARE = 8  # channels added: kernels want a multiple of eight


class FoldedAttention(Attention):
    """Attention whose key bias is part of the product."""

    def output(self, *, steps_up_to: int = 0) -> Tensor:
        if self.bias is None:
            return super().output(steps_up_to=steps_up_to)
        q, k, v = (F.pad(part, (0, SPARE)) for part in (self.q_BHND, self.k_BHND, self.v_BHND))
        D = self.q_BHND.shape[-1]
        q[..., D] = 1 / self.scale
        k[..., D] = self.bias.squeeze(2)
        return F.scaled_dot_product_attention(q, k, v, dropout_p=self.dropout, scale=self.scale)[..., :D]


class FoldingReader(BlockReader):
    """A reader whose attention folds; the rest is another's."""

    def __init__(self, reader: BlockReader):
        self.reader = reader

    def enter(self, block: Any, x_BNC: Tensor) -> Tensor:
        return self.reader.enter(block, x_BNC)

    def leave(self, block: Any, mixed_BHND: Tensor) -> Tensor:
        return self.reader.leave(block, mixed_BHND)

    def attention(self, block: Any, x_BNC: Tensor) -> Attention:
        return FoldedAttention(*self.reader.attention(block, x_BNC))

    def add_attention(self, block: Any, x_BNC: Tensor, out_BNC: Tensor) -> Tensor:
        return self.reader.add_attention(block, x_BNC, out_BNC)

    def add_mlp(self, block: Any, x_BNC: Tensor) -> Tensor:
        return self.reader.add_mlp(block, x_BNC)


def fold_sizes(model: nn.Module) -> nn.Module:
    """The same reduced model, from now on without an attention mask."""
    stacks = [part for part in model.modules() if isinstance(part, TokenStack)]
    if not stacks:
        raise ValueError("only a reduced model has sizes to fold: vitrim.reduce_tokens first.")
    for block in stacks[0]:
        block.__dict__["reader"] = FoldingReader(cast(TokenBlock, block).reader)
    return model
