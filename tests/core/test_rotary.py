"""Positions of tokens: which row of a table of rotations each is turned by, through every kind of reduction."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vitrim.core import ops, packing
from vitrim.core.rotary import NO_POSITION, Rotation, positions
from vitrim.core.tokens import Tokens

B, H, P, R = 2, 3, 6, 8
POSITION_BK = torch.tensor([[4, 0, NO_POSITION], [1, 1, 5]])


def some_tokens(prefix: int = 1) -> Tokens:
    return Tokens(torch.randn(B, prefix + P, 4), prefix, uses_rope=True)


def a_table(kind: str) -> Tensor:
    shape = {"shared": (P, R), "heads": (H, P, R), "image": (B, 1, P, R), "image_heads": (B, H, P, R)}[kind]
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("cos_first", [False, True])
@pytest.mark.parametrize("kind", ["shared", "heads", "image", "image_heads"])
def test_rows_are_those_of_the_table_and_nowhere_turns_nothing(kind: str, cos_first: bool) -> None:
    table = a_table(kind)
    rows = Rotation(table, cos_first).rows(POSITION_BK).expand(B, H, 3, R)
    still = [1.0, 0.0] if cos_first else [0.0, 1.0]
    for b in range(B):
        of_image = table[b] if table.ndim == 4 else table
        for h in range(H):
            of_head = of_image.expand(H, P, R)[h]
            for k, position in enumerate(POSITION_BK[b].tolist()):
                wanted = torch.tensor(still).repeat_interleave(R // 2) if position == NO_POSITION else of_head[position]
                assert torch.equal(rows[b, h, k], wanted)


def test_untouched_positions_give_the_very_table() -> None:
    table = a_table("shared")
    assert Rotation(table).rows(None) is table


def test_tables_of_other_images_are_refused() -> None:
    with pytest.raises(ValueError, match=r"2 images.* 1 "):
        Rotation(a_table("image")).rows(POSITION_BK[:1])


def test_models_without_rotations_carry_no_positions() -> None:
    keep_BK = torch.tensor([[1, 0], [3, 2]])
    assert ops.keep(some_tokens()._replace(uses_rope=False), keep_BK).position_BK is None


@pytest.mark.parametrize("prefix", [0, 1, 5])
def test_a_token_that_stays_keeps_its_position_whatever_merges_into_it(prefix: int) -> None:
    first, second = torch.tensor([[5, 2, 0, 3], [4, 1, 3, 0]]), torch.tensor([[2, 0], [3, 1]])
    tokens = ops.keep(some_tokens(prefix), first)
    assert tokens.position_BK is not None
    assert tokens.position_BK.tolist() == first.tolist()
    rest_BM = torch.tensor([[1, 3], [0, 2]])
    merged = ops.merge(tokens, second, rest_BM, torch.zeros_like(rest_BM), torch.rand(B, 4))
    assert merged.position_BK is not None
    assert merged.position_BK.tolist() == [[0, 5], [0, 1]]
    replaced = ops.replace_last(merged, torch.zeros(B, 1, 4))
    assert replaced.position_BK is merged.position_BK
    assert first.tolist() == [[5, 2, 0, 3], [4, 1, 3, 0]]  # the method's own indices are left alone


@pytest.mark.parametrize("prefix", [0, 1])
def test_a_fused_token_stands_nowhere_and_stays_there(prefix: int) -> None:
    keep_BK = torch.tensor([[5, 2], [4, 1]])
    fused = ops.fuse(some_tokens(prefix), keep_BK, torch.rand(B, P))
    assert fused.position_BK is not None
    assert fused.position_BK.tolist() == [[5, 2, NO_POSITION], [4, 1, NO_POSITION]]
    again = ops.keep(fused, torch.tensor([[2, 0], [0, 2]]))
    assert again.position_BK is not None
    assert again.position_BK.tolist() == [[NO_POSITION, 5], [4, NO_POSITION]]


def test_selected_images_take_their_positions_along() -> None:
    tokens = ops.keep(some_tokens(), torch.tensor([[5, 2], [4, 1]]))
    chosen = ops.select_images(tokens, torch.tensor([1])).position_BK
    assert chosen is not None
    assert chosen.tolist() == [[4, 1]]


def test_packed_tokens_are_turned_image_after_image_and_their_prefix_is_not() -> None:
    tokens = some_tokens(2)._replace(position_BK=torch.tensor([[5, 3, 9], [1, 0, 4]]), lengths=(4, 5))
    tokens = tokens._replace(x_BNC=packing.pack(torch.randn(B, 5, 4), (4, 5)).unsqueeze(0))
    found = positions(tokens)
    assert found is not None
    assert found.tolist() == [[NO_POSITION, NO_POSITION, 5, 3, NO_POSITION, NO_POSITION, 1, 0, 4]]
