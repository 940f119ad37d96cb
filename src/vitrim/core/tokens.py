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
    traced: bool = False  # whether to follow every patch from here on, in the next two
    source_BP: Tensor | None = None  # index of the token that holds each patch, -1 dropped (None: its own)
    weight_BP: Tensor | None = None  # weight of each patch in that token (None: 1)
    carry: tuple[Tensor, ...] | None = None  # what the method tells whoever listens (None: nobody does)

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
        return ones_like_size(self.x_BNC)[:, self.num_prefix :]


def ones_like_size(x_BNC: Tensor) -> Tensor:
    """A size of one for every token, [B, N], in at least fp32: bf16 cannot tell 300 from 301 patches."""
    return x_BNC.new_ones(x_BNC.shape[:2], dtype=torch.promote_types(x_BNC.dtype, torch.float32))
