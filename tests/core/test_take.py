"""Rows are taken from every image alike, with and without a gradient."""

from __future__ import annotations

import pytest
import torch

from vitrim.core import ops


@pytest.mark.parametrize("shape", [(), (4,), (4, 5)])
def test_take_takes_other_rows_in_every_image(shape: tuple[int, ...]) -> None:
    x = torch.randn(2, 6, *shape)
    index_BK = torch.tensor([[5, 0, 0], [1, 2, 3]])
    wanted = torch.stack([image[index] for image, index in zip(x, index_BK, strict=True)])
    assert torch.equal(ops.take(x, index_BK), wanted)
    assert torch.equal(ops.take(x[:1].expand(2, *x.shape[1:]), index_BK)[0], wanted[0])


@pytest.mark.parametrize("shape", [(1, 600), (1, 600, 3), (2, 600, 3)], ids=str)
def test_the_gradient_of_a_row_that_many_patches_read_is_not_cut_short_in_bf16(shape: tuple[int, ...]) -> None:
    x = torch.zeros(shape, dtype=torch.bfloat16, requires_grad=True)
    ops.take(x, torch.zeros(shape[0], 4096, dtype=torch.long)).sum().backward()
    assert x.grad is not None
    assert x.grad[:, 0].eq(4096).all()
    assert x.grad[:, 1:].eq(0).all()


@pytest.mark.parametrize("batch", [1, 3])
def test_taken_rows_are_the_same_with_and_without_a_gradient(batch: int) -> None:
    x_BNC, index_BK = torch.randn(batch, 9, 4), torch.randint(0, 9, (batch, 6))
    with torch.no_grad():
        assert torch.equal(ops.take(x_BNC, index_BK), torch.stack([x[i] for x, i in zip(x_BNC, index_BK, strict=True)]))
    assert torch.equal(ops.take(x_BNC, index_BK), torch.stack([x[i] for x, i in zip(x_BNC, index_BK, strict=True)]))
