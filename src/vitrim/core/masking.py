"""Training with masks: tokens that a method would remove stay in place, and attention weighs their keys by 0.

So whether a token stays can have a gradient. Masks are 1 or 0 in the forward, and pass on the gradient of a probability
(a straight-through estimator). Weights in between are soft sizes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .ops import follow, ones_like_size, take
from .selection import reorder
from .tokens import Tokens


def live_tokens(tokens: Tokens) -> Tensor:
    """The weight of every token, the prefix included: [B, N]; ones if nothing is masked yet."""
    return ones_like_size(tokens.x_BNC) if tokens.live_BN is None else tokens.live_BN


def live_patches(tokens: Tokens) -> Tensor:
    """The same of the patches: [B, N - prefix]."""
    return live_tokens(tokens)[:, tokens.num_prefix :]


def with_patches(tokens: Tokens, live_BP: Tensor) -> Tokens:
    """The same tokens with other weights of the patches. The prefix is always live."""
    live_BN = torch.cat([live_tokens(tokens)[:, : tokens.num_prefix], live_BP], dim=1)
    return tokens._replace(live_BN=live_BN)


def straight_through(hard: Tensor, soft: Tensor) -> Tensor:
    """The value of `hard`, to the last bit, with the gradient of `soft`."""
    return hard + (soft - soft.detach())


def sort_patches(tokens: Tokens, order_BP: Tensor) -> Tokens:
    """Put the patches of each image in another order, with their weights."""
    live_BP = live_patches(tokens).gather(1, order_BP)
    return with_patches(reorder(tokens, order_BP), live_BP)


def merge_masked(
    tokens: Tokens,
    joins_BP: Tensor,
    target_BP: Tensor,
    weight_BP: Tensor,
    gone_BP: Tensor,
    *,
    size_BP: Tensor | None = None,
) -> Tokens:
    """Let each patch of joins_BP join the one at target_BP, as a weighted mean. All rows stay; the caller masks them.

    weight_BP: of each patch in the mean. gone_BP: those that are dropped, for a trace. size_BP: what each of joins_BP
    adds to the size of its target; None: its own size.
    """
    prefix = tokens.num_prefix
    joining_BP = torch.where(joins_BP, weight_BP, 0.0)
    total_BP = weight_BP.scatter_add(1, target_BP, joining_BP)
    share_BP = joining_BP / total_BP.gather(1, target_BP).clamp(min=torch.finfo(total_BP.dtype).tiny)
    patches_BPC = tokens.x_BNC[:, prefix:]
    away_BPC = (patches_BPC - take(patches_BPC, target_BP)) * share_BP.unsqueeze(2).to(patches_BPC.dtype)
    index_BPC = target_BP.unsqueeze(2).expand_as(away_BPC)
    x_BNC = torch.cat([tokens.x_BNC[:, :prefix], patches_BPC.scatter_add(1, index_BPC, away_BPC)], dim=1)
    size_BN = ones_like_size(tokens.x_BNC) if tokens.size_BN is None else tokens.size_BN
    added_BP = torch.where(joins_BP, size_BN[:, prefix:] if size_BP is None else size_BP, 0.0)
    grown_BP = size_BN[:, prefix:].scatter_add(1, target_BP, added_BP)
    out = tokens._replace(x_BNC=x_BNC, size_BN=torch.cat([size_BN[:, :prefix], grown_BP], dim=1))
    if not tokens.traced:
        return out
    slot_BP = torch.where(joins_BP, target_BP, torch.arange(joins_BP.shape[1], device=joins_BP.device))
    slot_BP = torch.where(gone_BP.gather(1, slot_BP), -1, slot_BP)
    own_BP = torch.ones_like(share_BP).scatter_add(1, target_BP, -share_BP)
    return follow(out, tokens, slot_BP, torch.where(joins_BP, share_BP, own_BP).detach())
