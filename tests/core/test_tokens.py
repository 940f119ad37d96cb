"""The value that flows from block to block."""

from __future__ import annotations

import torch
from torch.utils import _pytree

from vitrim.core import ops
from vitrim.core.tokens import Tokens


def test_without_a_listener_nothing_is_kept_beside_the_features() -> None:
    tokens = Tokens(torch.randn(1, 4, 2), 1)
    assert (tokens.size_BN, tokens.source_BP, tokens.weight_BP) == (None, None, None)


def test_sizes_are_ones_until_somebody_counts() -> None:
    tokens = Tokens(torch.randn(2, 5, 3, dtype=torch.float64), 2)
    assert torch.equal(ops.patch_sizes(tokens), torch.ones(2, 3, dtype=torch.float64))
    counted = tokens._replace(size_BN=torch.tensor([[1.0, 1, 4, 5, 6]]))
    assert ops.patch_sizes(counted).tolist() == [[4, 5, 6]]


def test_tokens_are_a_plain_pytree() -> None:
    tokens = Tokens(torch.randn(1, 4, 2), 1, traced=True)
    leaves, spec = _pytree.tree_flatten(tokens)
    assert any(leaf is tokens.x_BNC for leaf in leaves)
    assert isinstance(_pytree.tree_unflatten(leaves, spec), Tokens)
