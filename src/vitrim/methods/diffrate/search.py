"""DiffRate's search: counts that are learned by gradient, while tokens are masked and not removed.

    kept = ceil(Σ_k k softmax(z)_k)    over the candidates k = P, P - 1, ..., 1; z: what a block learns, once for
                                       pruning and once for merging
    p_i = Σ_{k > i} softmax(z)_k       the probability that the patch of rank i is kept
    L = CE + 5 (GMACs - target)²

Both the ceiling and the mask pass on the gradient of what they round. The count behind a block is the least of the
count before it and of its two; each of the two gets the whole gradient.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ...core import portable
from ...core.cost import BlockCost
from ...core.masking import live_patches, merge_masked, sort_patches, straight_through, with_patches
from ...core.matching import cosines
from ...core.ops import patch_sizes
from ...core.tokens import Tokens

EPS = 1e-6  # of the masked softmax, as in the official code
WEIGHT = 5.0  # of the cost in the loss, in GMACs


class Count(NamedTuple):
    """A learned number of patches."""

    kept: Tensor  # a whole number, with the gradient of the expected one
    stays_P: Tensor  # the probability that each rank is kept


class Rates(nn.Module):
    """What one block learns."""

    def __init__(self, num_patches: int, cost: BlockCost):
        super().__init__()
        self.cost = cost
        self.prune_scores = nn.Parameter(torch.zeros(num_patches))
        self.merge_scores = nn.Parameter(torch.zeros(num_patches))

    def counts(self) -> tuple[Count, Count]:
        """Patches after pruning, and after merging."""
        return count(self.prune_scores), count(self.merge_scores)

    def kept(self) -> tuple[int, int]:
        """The same as plain numbers."""
        with torch.no_grad():
            pruned, merged = (int(each.kept) for each in self.counts())
        return pruned, min(pruned, merged)


def count(scores_P: Tensor) -> Count:
    """The count that scores over the candidates P, P - 1, ..., 1 stand for."""
    P = scores_P.shape[0]
    chosen_P = scores_P.softmax(dim=0)
    expected = (chosen_P * torch.arange(P, 0, -1, device=scores_P.device)).sum()
    return Count(straight_through(expected.detach().ceil(), expected), chosen_P.cumsum(dim=0).flip(0))


def search_step(tokens: Tokens, score_BP: Tensor, rates: Rates) -> tuple[Tokens, Tensor, Tensor]:
    """One block: the tokens, sorted and masked, and how many entered and left it, prefix included."""
    prefix = tokens.num_prefix
    entering = tokens.memory[0][0] if tokens.memory else score_BP.new_tensor(prefix + score_BP.shape[1])
    score_BP = score_BP.detach().masked_fill(live_patches(tokens).detach() < 0.5, -torch.inf)
    tokens = sort_patches(tokens, portable.order(score_BP))
    live_BP, rank_P = live_patches(tokens), torch.arange(score_BP.shape[1], device=score_BP.device)
    present = live_BP.detach()[0].sum()
    prune, merge = rates.counts()
    gone_P = (rank_P >= prune.kept.detach()) & (rank_P < present)
    live_BP = live_BP * _mask(prune, rank_P, present)
    present = torch.minimum(present, prune.kept.detach())
    joins_P = (rank_P >= merge.kept.detach()) & (rank_P < present)
    tokens = _merge(tokens, joins_P, rank_P < merge.kept.detach(), gone_P)
    tokens = with_patches(tokens, live_BP * _mask(merge, rank_P, present))
    least = torch.minimum(torch.minimum(entering.detach(), prefix + prune.kept.detach()), prefix + merge.kept.detach())
    leaving = least + sum(each.kept - each.kept.detach() for each in (prune, merge))
    B = tokens.x_BNC.shape[0]
    return tokens._replace(memory=(leaving.expand(B),)), entering, leaving


def _mask(chosen: Count, rank_P: Tensor, present: Tensor) -> Tensor:
    """0 for the ranks from the count on up to those that are there; all 1 if the count is not smaller."""
    kept = chosen.kept.detach()
    hard_P = 1.0 - ((rank_P >= kept) & (rank_P < present)).to(chosen.stays_P.dtype)
    return torch.where(kept < present, straight_through(hard_P, chosen.stays_P), torch.ones_like(hard_P))


def _merge(tokens: Tokens, joins_P: Tensor, targets_P: Tensor, gone_P: Tensor) -> Tokens:
    """Let some ranks join the most similar of the ranks before, by a plain mean; each adds at least 1 to the size."""
    patches_BPC = tokens.patches_BNC.detach()
    similarity_BPP = cosines(patches_BPC, patches_BPC).masked_fill(~targets_P, -torch.inf)
    best_BP, target_BP = similarity_BPP.max(dim=-1)
    joins_BP = joins_P.expand_as(best_BP)
    size_BP = patch_sizes(tokens)
    added_BP = torch.where(joins_BP, (size_BP * best_BP).clamp(min=1), size_BP)
    if tokens.size_BN is not None:  # in place of the sizes of what joins, too
        size_BN = torch.cat([tokens.size_BN[:, : tokens.num_prefix], added_BP], dim=1)
        tokens = tokens._replace(size_BN=size_BN)
    return merge_masked(
        tokens, joins_BP, target_BP, torch.ones_like(size_BP), gone_P.expand_as(best_BP), size_BP=added_BP
    )
