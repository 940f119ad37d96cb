"""The value that flows from block to block."""

from __future__ import annotations

import torch
from torch.utils import _pytree

from vitrim.core.tokens import Tokens, start


def test_at_the_start_every_patch_lies_in_its_own_token() -> None:
    x_BNC = torch.randn(2, 3 + 5, 4)
    tokens = start(x_BNC, 3, sources=True)
    assert tokens.num_patches == 5
    assert tokens.source_BP is not None
    assert tokens.weight_BP is not None
    assert tokens.source_BP.tolist() == [[3, 4, 5, 6, 7]] * 2
    assert torch.equal(tokens.weight_BP, torch.ones(2, 5))
    assert torch.equal(tokens.patches_BNC, x_BNC[:, 3:])


def test_without_a_listener_nothing_is_kept_beside_the_features() -> None:
    tokens = start(torch.randn(1, 4, 2), 1)
    assert (tokens.size_BN, tokens.source_BP, tokens.weight_BP) == (None, None, None)


def test_sizes_are_ones_until_somebody_counts() -> None:
    tokens = start(torch.randn(2, 5, 3, dtype=torch.float64), 2)
    assert torch.equal(tokens.patch_size_BN, torch.ones(2, 3, dtype=torch.float64))
    counted = tokens._replace(size_BN=torch.tensor([[1.0, 1, 4, 5, 6]]))
    assert counted.patch_size_BN.tolist() == [[4, 5, 6]]


def test_tokens_are_a_plain_pytree() -> None:
    tokens = start(torch.randn(1, 4, 2), 1, sources=True)
    leaves, spec = _pytree.tree_flatten(tokens)
    assert any(leaf is tokens.x_BNC for leaf in leaves)
    assert isinstance(_pytree.tree_unflatten(leaves, spec), Tokens)
