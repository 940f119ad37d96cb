"""Input-adaptive reductions: each image keeps its own number of tokens.

The result is packed (see `Tokens`), or [B, N, C] if all images keep the same number. The counts decide all later shapes
and are read on the host. So a GPU has to wait for them, and the model can be neither compiled nor exported.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from . import packing, portable
from .attention import Attention
from .ops import arrange, follow, ones_like_size, patch_sizes
from .precision import matmul_without_autocast
from .rotary import NO_POSITION
from .tokens import Tokens


def keep_where(tokens: Tokens, kept_BN: Tensor) -> Tokens:
    """Keep the patches where kept_BN is true, in their order, and drop the others.

    kept_BN is [B, N - prefix], N of the longest image. Values at padding are ignored. If no image drops anything,
    `tokens` is returned unchanged.
    """
    kept_BN = _checked(tokens, kept_BN)
    kept_B = kept_BN.sum(dim=1).tolist()
    if _keep_all(tokens, kept_B):
        return tokens
    lengths = tuple(tokens.num_prefix + kept for kept in kept_B)
    out = _take_where(tokens, kept_BN, lengths)
    if not tokens.traced:
        return out
    slot_BN = torch.where(kept_BN, kept_BN.cumsum(dim=1) - 1, -1)
    return follow(out, tokens, slot_BN, torch.ones_like(patch_sizes(tokens)))


def keep_queries_where(tokens: Tokens, attention: Attention, kept_BN: Tensor) -> tuple[Tokens, Attention]:
    """`keep_where` within attention: the kept tokens alone ask, and all tokens answer."""
    out = keep_where(tokens, kept_BN)
    if out is tokens:
        return tokens, attention
    rows_T = _rows_where(tokens, kept_BN & live_patches(tokens))
    q, k, v = (part.transpose(1, 2).flatten(0, 1) for part in (attention.q_BHND, attention.k_BHND, attention.v_BHND))
    q_1HTD, k_1HTD, v_1HTD = (part.unsqueeze(0).transpose(1, 2) for part in (q.index_select(0, rows_T), k, v))
    bias = None if attention.bias is None else attention.bias.flatten(0, 2).reshape(1, 1, 1, -1)
    packed = attention._replace(q_BHND=q_1HTD, k_BHND=k_1HTD, v_BHND=v_1HTD, bias=bias)
    return out, packed._replace(lengths=tokens.num_tokens_B, query_lengths=out.num_tokens_B)


def fuse_where(tokens: Tokens, kept_BN: Tensor, weight_BN: Tensor) -> Tokens:
    """Keep the patches where kept_BN is true, in their order, and append the weighted mean of the others.

    An image that keeps all its patches gets no such token. kept_BN and weight_BN are as in `keep_where`. Weights are at
    least 0. If all weights of an image are 0, they count as equal.
    """
    kept_BN = _checked(tokens, kept_BN)
    rest_BN = live_patches(tokens) & ~kept_BN
    kept_B = kept_BN.sum(dim=1).tolist()
    if _keep_all(tokens, kept_B):
        return tokens
    fuses_B = rest_BN.any(dim=1)
    lengths = tuple(
        tokens.num_prefix + kept + fuses for kept, fuses in zip(kept_B, fuses_B.long().tolist(), strict=True)
    )
    share_BN = _shares(weight_BN, rest_BN)
    out = _take_where(tokens, kept_BN, lengths, fuses_B)
    last_F = (packing.starts(lengths, fuses_B.device) + torch.tensor(lengths, device=fuses_B.device) - 1)[fuses_B]
    fused_BC = matmul_without_autocast(share_BN.to(tokens.x_BNC.dtype).unsqueeze(1), tokens.patches_BNC).squeeze(1)
    out.x_BNC.flatten(0, 1).index_copy_(0, last_F, fused_BC[fuses_B].to(out.x_BNC.dtype))
    if out.size_BN is not None:
        size_B = torch.where(rest_BN, patch_sizes(tokens), 0.0).sum(dim=1)
        out.size_BN.flatten().index_copy_(0, last_F, size_B[fuses_B])
    if not tokens.traced:
        return out
    slot_BN = torch.where(kept_BN, kept_BN.cumsum(dim=1) - 1, kept_BN.sum(dim=1, keepdim=True))
    return follow(out, tokens, slot_BN, torch.where(kept_BN, 1.0, share_BN.detach()))


def reorder(tokens: Tokens, order_BN: Tensor) -> Tokens:
    """Put the patches of each image in another order. order_BN, [B, N - prefix], has their indices, padding last."""
    lengths, prefix = tokens.num_tokens_B, tokens.num_prefix
    if not lengths:
        return tokens
    first_B1 = packing.starts(lengths, order_BN.device).unsqueeze(1)
    index_BN = torch.cat([torch.arange(prefix, device=order_BN.device).expand(len(lengths), -1), order_BN + prefix], 1)
    rows_T = packing.pack(index_BN + first_B1, lengths)
    size, position = tokens.size_BN, tokens.position_BK
    out = tokens._replace(
        x_BNC=tokens.x_BNC.flatten(0, 1).index_select(0, rows_T).view_as(tokens.x_BNC),
        size_BN=None if size is None else size.flatten().index_select(0, rows_T).view_as(size),
        position_BK=(order_BN if position is None else position.gather(1, order_BN)) if tokens.uses_rope else None,
    )
    if not tokens.traced:
        return out
    return follow(out, tokens, places(order_BN), torch.ones_like(patch_sizes(tokens)))


def places(order_BN: Tensor) -> Tensor:
    """Where each index stands in a permutation."""
    index_N = torch.arange(order_BN.shape[1], device=order_BN.device)
    return torch.zeros_like(order_BN).scatter(1, order_BN, index_N.expand_as(order_BN))


def merge_where(tokens: Tokens, joins_BN: Tensor, target_BN: Tensor, kept_BN: Tensor) -> Tokens:
    """The patches where kept_BN is true, in their order; before that, each of joins_BN joins the kept one at target_BN.

    A token that receives others becomes the mean of its group, weighted by size; sizes are counted from here on. Those
    that neither stay nor join one that stays are dropped. All [B, N - prefix], as in `keep_where`.
    """
    kept_BN = _checked(tokens, kept_BN)
    joins_BN = joins_BN & live_patches(tokens) & ~kept_BN & kept_BN.gather(1, target_BN)
    kept_B = kept_BN.sum(dim=1).tolist()
    if tokens.size_BN is None:
        tokens = tokens._replace(size_BN=ones_like_size(tokens.x_BNC))
    if _keep_all(tokens, kept_B):
        return tokens
    size_BN = patch_sizes(tokens)
    total_BN = size_BN.scatter_add(1, target_BN, torch.where(joins_BN, size_BN, 0.0))
    joined = _join(tokens, joins_BN, target_BN, size_BN / total_BN.gather(1, target_BN))
    out = _take_where(joined, kept_BN, tuple(tokens.num_prefix + kept for kept in kept_B))
    if not tokens.traced:
        return out
    slot_BN = torch.where(kept_BN, kept_BN.cumsum(dim=1) - 1, -1)
    slot_BN = torch.where(joins_BN, slot_BN.gather(1, target_BN), slot_BN)
    into_BN = torch.where(joins_BN, total_BN.gather(1, target_BN), total_BN)
    return follow(out, tokens, slot_BN, size_BN / into_BN.clamp(min=torch.finfo(into_BN.dtype).tiny))


def _join(tokens: Tokens, joins_BN: Tensor, target_BN: Tensor, share_BN: Tensor) -> Tokens:
    """The tokens with those of joins_BN in their targets, where they make up this share; none goes yet."""
    assert tokens.size_BN is not None
    first_B1 = packing.starts(tokens.num_tokens_B, joins_BN.device).unsqueeze(1) + tokens.num_prefix
    from_M = (first_B1 + torch.arange(joins_BN.shape[1], device=joins_BN.device))[joins_BN]
    to_M = (first_B1 + target_BN)[joins_BN]
    x_TC, size_T = tokens.x_BNC.flatten(0, 1), tokens.size_BN.flatten()
    away_MC = (x_TC.index_select(0, from_M) - x_TC.index_select(0, to_M)) * share_BN[joins_BN].unsqueeze(1)
    return tokens._replace(
        x_BNC=x_TC.index_add(0, to_M, away_MC.to(x_TC.dtype)).view_as(tokens.x_BNC),
        size_BN=size_T.index_add(0, to_M, size_T.index_select(0, from_M)).view_as(tokens.size_BN),
    )


def live_patches(tokens: Tokens) -> Tensor:
    """Which patch tokens are not padding: [B, N - prefix], bool."""
    if tokens.lengths is None:
        B, N, _ = tokens.x_BNC.shape
        return tokens.x_BNC.new_ones(B, N - tokens.num_prefix, dtype=torch.bool)
    return packing.live(tokens.lengths, tokens.x_BNC.device)[:, tokens.num_prefix :]


def _checked(tokens: Tokens, kept_BN: Tensor) -> Tensor:
    """kept_BN without padding. ValueError in a graph, whose shapes must not depend on data."""
    if torch.compiler.is_compiling() or portable.is_traced_by_jit():
        _refuse()
    return kept_BN & live_patches(tokens)


def _raise() -> None:
    raise ValueError(
        "this method keeps its own number of tokens per image, so it can be neither compiled nor exported."
    )


# As a constant it is called while compiling. An error in traced code would only make torch.compile fall back.
_refuse: Callable[[], None] = torch.compiler.assume_constant_result(_raise)  # type: ignore[no-untyped-call]


def _keep_all(tokens: Tokens, kept_B: list[int]) -> bool:
    return tuple(kept + tokens.num_prefix for kept in kept_B) == tokens.num_tokens_B


def _shares(weight_BN: Tensor, rest_BN: Tensor) -> Tensor:
    """Weights of the rest, normalised to sum to 1 in each image: [B, N - prefix]."""
    weight_BN = torch.where(rest_BN, weight_BN, 0.0)
    total_B1 = weight_BN.sum(dim=1, keepdim=True)
    weight_BN = torch.where(total_B1 > 0, weight_BN, rest_BN.to(weight_BN.dtype))
    total_B1 = torch.where(total_B1 > 0, total_B1, rest_BN.sum(dim=1, keepdim=True).clamp(min=1).to(weight_BN.dtype))
    return weight_BN / total_B1


def _take_where(tokens: Tokens, kept_BN: Tensor, lengths: packing.Lengths, more_B: Tensor | None = None) -> Tokens:
    """Copy the prefix, the kept patches and, in the images of more_B, a row to overwrite. Sources stay."""
    rows_T = _rows_where(tokens, kept_BN, more_B)
    x_TC = tokens.x_BNC.flatten(0, 1).index_select(0, rows_T)
    size = None if tokens.size_BN is None else tokens.size_BN.flatten().index_select(0, rows_T).unsqueeze(0)
    position_BK = _positions(tokens, kept_BN, more_B is not None)
    return arrange(tokens._replace(x_BNC=x_TC.unsqueeze(0), size_BN=size, position_BK=position_BK), lengths)


def _rows_where(tokens: Tokens, kept_BN: Tensor, more_B: Tensor | None = None) -> Tensor:
    """The rows of the prefix and the kept patches of every image, and any one of its own for the images of more_B."""
    B, device = len(kept_BN), kept_BN.device
    start_B1 = packing.starts(tokens.num_tokens_B, device).unsqueeze(1)
    index_BN = start_B1 + torch.arange(tokens.num_prefix + kept_BN.shape[1], device=device)
    chosen_BN = torch.cat([kept_BN.new_ones(B, tokens.num_prefix), kept_BN], dim=1)
    if more_B is not None:
        index_BN = torch.cat([index_BN, start_B1], dim=1)
        chosen_BN = torch.cat([chosen_BN, more_B.unsqueeze(1)], dim=1)
    return index_BN[chosen_BN]


def _positions(tokens: Tokens, kept_BN: Tensor, more: bool) -> Tensor | None:
    """Positions of the kept patches, moved to the left: [B, N - prefix + more]. All others have none."""
    if not tokens.uses_rope:
        return None
    B, N = kept_BN.shape
    own_BN = torch.arange(N, device=kept_BN.device).expand(B, -1)
    at_BN = own_BN if tokens.position_BK is None else tokens.position_BK
    slot_BN = torch.where(kept_BN, kept_BN.cumsum(dim=1) - 1, N)  # dropped ones go into an extra column
    position_BK = at_BN.new_full((B, N + 1), NO_POSITION).scatter(1, slot_BN, torch.where(kept_BN, at_BN, NO_POSITION))
    return position_BK[:, : N + more]
