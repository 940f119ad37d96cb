"""LTMP's training: thresholds that have a gradient, while tokens are masked and not removed.

m_i = 1 if s_i > θ, or else 0    forward; backward as sigmoid((s_i - θ) / τ), with τ = 0.1
L = CE + 10 (r - target)²        r: multiply-adds of the blocks with the mean live tokens, as a share of all
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from ...core.cost import BlockCost
from ...core.masking import live_patches, merge_masked, sort_patches, straight_through, with_patches
from ...core.ops import patch_sizes
from ...core.pairs import even_places_first
from ...core.tokens import Tokens

TEMPERATURE = 0.1
WEIGHT = 10.0  # of the cost in the loss
PRUNE_LR = 1e-3  # learning rate of prune_threshold, in that of merge_threshold


class Thresholds(nn.Module):
    """What one block learns."""

    lr_scale: ClassVar[dict[str, float]] = {"prune_threshold": PRUNE_LR}

    def __init__(self, merge: float, prune: float, cost: BlockCost, *, learn: bool):
        super().__init__()
        self.cost = cost
        self.merge_threshold = nn.Parameter(torch.tensor([float(merge)]), requires_grad=learn)
        self.prune_threshold = nn.Parameter(torch.tensor([float(prune)]), requires_grad=learn)


def above(score: Tensor, threshold: Tensor) -> Tensor:
    """1 where the score exceeds the threshold, else 0, with the gradient of a sigmoid."""
    soft = torch.sigmoid((score - threshold) / TEMPERATURE)
    return straight_through((score > threshold).to(soft.dtype), soft)


def masked_step(
    tokens: Tokens, best_BP: Tensor, target_BP: Tensor, received_BP: Tensor, weights: Thresholds
) -> tuple[Tokens, Tensor, Tensor]:
    """One block: the tokens, in the order that they have at inference, and how many entered and left it, on average.

    best_BP: cosine of each patch and the one at target_BP, the partner that it resembles most; -inf for those that
    cannot join. received_BP: attention received.
    """
    was_BP = live_patches(tokens)
    live_BP = was_BP.detach() > 0.5
    best_BP = best_BP.masked_fill(~live_BP, -torch.inf)
    merge_BP = above(best_BP.clamp(min=-2.0), weights.merge_threshold.to(best_BP.dtype))
    joins_BP = merge_BP.detach() > 0.5
    joining_BP = torch.where(joins_BP, received_BP, 0.0)
    received_BP = received_BP.scatter_reduce(1, target_BP, joining_BP, "amax")
    left_BP = live_BP & ~joins_BP
    stays_BP = above(received_BP, weights.prune_threshold.to(received_BP.dtype))
    most_B1 = received_BP.detach().masked_fill(~left_BP, -1.0).argmax(dim=1, keepdim=True)
    stays_BP = torch.where(torch.zeros_like(left_BP).scatter(1, most_B1, True), 1.0, stays_BP)
    kept_BP = left_BP & (stays_BP.detach() > 0.5)
    now_BP = torch.where(live_BP, torch.where(joins_BP, 1 - merge_BP, stays_BP), was_BP)
    sizes_BP = patch_sizes(tokens)
    out = merge_masked(tokens, joins_BP, target_BP, sizes_BP, live_BP & ~joins_BP & ~kept_BP)
    out = sort_patches(with_patches(out, now_BP), even_places_first(kept_BP, tokens.num_prefix))
    entering, leaving = (tokens.num_prefix + live.sum(dim=1).mean() for live in (was_BP, now_BP))
    return out, entering, leaving
