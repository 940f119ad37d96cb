"""Attention of reduced models with rotary positions, against a plain one that turns each token by its own patch's row.

The rows come from the patches that a token holds, not from the positions that it carries: a token that holds one patch
stands there; the prefix, and a token into which patches were fused, stands nowhere.
"""

from __future__ import annotations

from typing import Any

import families
import other_libraries as others
import pytest
import torch
from torch import Tensor

import vitrim
from library_models import images, output, stack_of
from vitrim.testing import leaving_blocks

REDUCED, LOOKED_AT = (0, 2), (1, 3)
HALF = ("dinov3", "hf_dinov3")  # pairs of channels are half a head apart; side by side in the others
METHODS = {"random": {"keep_rate": 0.6}, "evit-nofuse": {"keep_rate": 0.6}, "evit": {"keep_rate": 0.6}}


@pytest.mark.parametrize("family", ["dinov3", "eva02", "rope_mixed", *({"hf_dinov3"} & set(others.HERE))])
@pytest.mark.parametrize("name", METHODS)
@torch.no_grad()
def test_each_token_is_turned_by_the_row_of_its_patch(family: str, name: str) -> None:
    plain = others.small_model(family) if family in others.FAMILIES else families.small_model(family)
    model, x = plain.double(), images().double()
    table = table_of(model, x)
    vitrim.reduce_tokens(model, name, layers=REDUCED, **METHODS[name])
    stack = stack_of(model)
    stack.collect_outputs([], traced=True)
    with leaving_blocks(model) as seen:
        output(model, x)
    stack.collect_outputs(None)
    for layer in LOOKED_AT:
        before, after = seen[layer - 1], seen[layer]
        assert before.source_BP is not None
        assert before.x_BNC.shape == after.x_BNC.shape
        of_block = table[layer] if table.ndim == 4 else table
        for x_NC, source_P, wanted_NC in zip(before.x_BNC, before.source_BP, after.x_BNC, strict=True):
            rows = rows_of(source_P, len(x_NC), of_block)
            got = block_by_hand(stack[layer].block, x_NC, rows, half=family in HALF)
            torch.testing.assert_close(got, wanted_NC, atol=1e-12, rtol=1e-12)


def table_of(model: Any, x: Tensor) -> Tensor:
    """Sines, then cosines: [P, R] or [depth, H, P, R]."""
    if hasattr(model, "rope"):
        table = families.rotations(model)
        assert table is not None
        return table
    cos, sin = model.rope_embeddings(x)
    return torch.cat([sin, cos], dim=-1)


def rows_of(source_P: Tensor, num_tokens: int, table: Tensor) -> list[Tensor | None]:
    held = [(source_P == token).nonzero().flatten().tolist() for token in range(num_tokens)]
    return [table[..., patches[0], :] if len(patches) == 1 else None for patches in held]


def block_by_hand(block: Any, x_NC: Tensor, rows: list[Tensor | None], half: bool) -> Tensor:
    """One block on one image, head by head and token by token. Its attention is plain softmax(q k^T / sqrt(D)) v."""
    attn, normed = getattr(block, "attn", None) or block.attention, block.norm1(x_NC)
    if getattr(attn, "qkv", None) is not None:
        parts = attn.qkv(normed).chunk(3, dim=-1)
    else:
        parts = [projection(normed) for projection in (attn.q_proj, attn.k_proj, attn.v_proj)]
    mixed = []
    for head in range(3):
        q, k, v = (part[:, head * 16 : (head + 1) * 16] for part in parts)
        q, k = (torch.stack([turned(t, row, head, half) for t, row in zip(w, rows, strict=True)]) for w in (q, k))
        mixed.append((q @ k.T / 4).softmax(dim=-1) @ v)
    joined = torch.cat(mixed, dim=-1)
    if hasattr(attn, "o_proj"):
        x_NC = x_NC + block.layer_scale1(attn.o_proj(joined))
        return x_NC + block.layer_scale2(block.mlp(block.norm2(x_NC)))
    gamma_1, gamma_2 = (1.0 if gamma is None else gamma for gamma in (block.gamma_1, block.gamma_2))
    x_NC = x_NC + gamma_1 * attn.proj(attn.norm(joined))
    return x_NC + gamma_2 * block.mlp(block.norm2(x_NC))


def turned(channels_D: Tensor, row: Tensor | None, head: int, half: bool) -> Tensor:
    """One head of one token: pairs of channels (a, b) become (a cos - b sin, b cos + a sin)."""
    if row is None:
        return channels_D
    sin, cos = (row[head] if row.ndim == 2 else row).chunk(2)
    out = channels_D.clone()
    for i in range(8):
        a, b = (i, i + 8) if half else (2 * i, 2 * i + 1)
        out[a] = channels_D[a] * cos[a] - channels_D[b] * sin[a]
        out[b] = channels_D[b] * cos[b] + channels_D[a] * sin[b]
    return out
