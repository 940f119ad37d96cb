"""The one value that flows from block to block.

Shape letters, used all over the package: B batch, N tokens, P patches at the start, K tokens kept, M tokens
removed, C channels, H heads, D channels per head.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Tokens(NamedTuple):
    """Features and their bookkeeping; a plain pytree, so that compile, export and checkpointing see inside.

    Methods never touch the bookkeeping by hand: the functions in `vitrim.core.ops` keep it in step.
    """

    x_BNC: Tensor  # features; the prefix (class, distillation, register tokens) first
    num_prefix: int  # length of the prefix, which is never reduced
    size_BN: Tensor | None = None  # patches each token stands for (None: one each, or nobody asked)
    source_BP: Tensor | None = None  # index of the token that holds each patch, -1 dropped (None: not traced)
    weight_BP: Tensor | None = None  # weight of each patch in that token (None: not traced)

    @property
    def num_patches(self) -> int:
        """Patch tokens still carried."""
        return self.x_BNC.shape[1] - self.num_prefix

    @property
    def patches_BNC(self) -> Tensor:
        """The features without the prefix: [B, N - num_prefix, C]."""
        return self.x_BNC[:, self.num_prefix :]

    @property
    def patch_size_BN(self) -> Tensor:
        """The sizes without the prefix; ones where nothing was counted yet."""
        if self.size_BN is not None:
            return self.size_BN[:, self.num_prefix :]
        return self.x_BNC.new_ones(self.x_BNC.shape[0], self.num_patches)


def start(x_BNC: Tensor, num_prefix: int, *, sources: bool = False) -> Tokens:
    """The tokens before the first block: each patch in a token of its own, with weight 1."""
    tokens = Tokens(x_BNC, num_prefix)
    if not sources:
        return tokens
    B, N = x_BNC.shape[:2]
    source = torch.arange(num_prefix, N, device=x_BNC.device).expand(B, -1)
    return tokens._replace(source_BP=source, weight_BP=x_BNC.new_ones(B, N - num_prefix))
