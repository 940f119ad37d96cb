"""MCTF: Multi-criteria Token Fusion with One-step-ahead Attention (Lee et al., CVPR 2024).

Paper: https://arxiv.org/abs/2403.10030. Official code: https://github.com/mlvlab/MCTF (MIT; this file is written from
the paper and from what the code computes). From the second block on, the input of a block is merged by three criteria
at once: patches that resemble each other, say little, and are small.

    W_ij = ((1 + cos(x_i, x_j)) / 2)^(1/τ_sim) · (1 / a_i a_j)^(1/τ_info) · (1 / s_i s_j)^(1/τ_size)
    a: attention received in this very block, mean over heads and queries; s: how many patches a token stands for
    r / 2 patches at even places join their best partner at an odd place; then the rest of r go the other way
    x_j = Σ a_i s_i x_i / Σ a_i s_i,    s_j = Σ s_i    over all that merge into j; log s is added to the logits
    A' = merged A: columns of a group are added, rows averaged with the same weights

A is the attention of the block on all tokens, one step ahead of the merge. It gives a, and its merged form A' serves
in place of a new softmax (one_step_ahead="reuse"). "exact" computes the attention of the merged tokens instead.
As in the official code: similarity on the features that enter the block; the class token takes no part; at least ten
tokens stay, itself among them; no block merges more than half; a block that is asked for more merges what it can.
Different: with two prefix tokens the official code protects the first two even places, here the prefix itself.
The paper's training runs a second pass of few or no merges and asks for like class tokens; that loss is not here: fine
tune with the model before as the teacher instead (`distillation: soft` in a recipe).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core import ops, portable
from ..core.amount import PerBlock
from ..core.attention import Attention
from ..core.choices import check_choice
from ..core.matching import cosines
from ..core.removing import RemovingMethod
from ..core.schedule import is_number, is_whole
from ..core.spec import ViTSpec
from ..core.tokens import Tokens

LEAST = 1e-12  # attention received, which is divided by

Ahead = Literal["reuse", "exact"]
Pooling = Literal["attention", "size"]


@dataclass(frozen=True, kw_only=True)
class MCTF(RemovingMethod):
    """Merge patches that resemble each other, receive little attention and are small, before a block's values mix.

    Args:
        r: patches to remove per block: one number; a pair (r, inflect), which runs linearly from r (1 - inflect) in the
            first block to r (1 + inflect) in the last; or a list, one number per block.
        layers: the blocks that merge, 0-based and increasing; None means all but the first.
        clamp: whether a block that is asked for more than it can merges what it can; otherwise it is an error.
        tau_sim, tau_info, tau_size: temperatures of the three criteria; the larger, the less one says. 0 leaves it out.
        one_step_ahead: reuse (the merged attention map, as in the paper's tables) or exact (computed once more).
        bidirectional: whether half of the patches go from odd to even places.
        pooling: what weighs patches in a mean: attention (times size, as in the paper) or size alone.
        floor: patches that always stay.
        prop_attn: whether attention adds log(size) to the logits.

    Raises:
        ValueError: If no model can take a setting. `reduce_tokens` raises it for the model at hand.

    Source:
        Lee et al., CVPR 2024, https://arxiv.org/abs/2403.10030.

    >>> MCTF(r=16).tau_info
    20
    """

    name = "mctf"
    R = PerBlock("r", "r {:g}", neutral=0, usual=16)
    merges = True
    before_attention = True
    by_position = True

    r: int | tuple[int, float] | Sequence[int] = 16
    clamp: bool = True
    tau_sim: float = 1
    tau_info: float = 20
    tau_size: float = 40
    one_step_ahead: Ahead = "reuse"
    bidirectional: bool = True
    pooling: Pooling = "attention"
    floor: int = 9
    prop_attn: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self.one_step_ahead, Ahead, f"{self.name}: one_step_ahead")
        check_choice(self.pooling, Pooling, f"{self.name}: pooling")
        for setting in ("tau_sim", "tau_info", "tau_size"):
            value = getattr(self, setting)
            if not is_number(value) or not 0 <= value < float("inf"):
                raise ValueError(f"{self.name}: {setting} is a number of at least 0, not {value!r}.")
        if not is_whole(self.floor) or self.floor < 1:
            raise ValueError(f"{self.name}: floor is a whole number of at least 1, not {self.floor!r}.")

    @property
    def forms_matrix(self) -> bool:
        return self.one_step_ahead == "reuse"

    def default_layers(self, spec: ViTSpec) -> tuple[int, ...]:
        return tuple(range(max(1, spec.first_reducible_layer), spec.depth))

    def most_removed(self, num_patches: int) -> int:
        return max(0, min(num_patches // 2, num_patches - self.floor))

    def extra_macs(self, layer: int, num_patches: int, spec: ViTSpec) -> int:
        if not self.is_active(layer, num_patches):
            return 0
        N, K = num_patches + spec.num_prefix, self.num_kept(layer, num_patches) + spec.num_prefix
        looking = N * spec.channels * 3 * spec.attention_channels + N * N * spec.attention_channels
        reused = K * K * spec.attention_channels if self.one_step_ahead == "reuse" else 0  # no new product of q and k
        return looking - reused + (num_patches // 2) * (num_patches - num_patches // 2) * spec.channels

    def within_attention(
        self, layer: int, tokens: Tokens, attention: Attention, project: Callable[[Tokens], Attention]
    ) -> tuple[Tokens, Attention]:
        num_removed = self.num_removed(layer, tokens.num_patches)
        if num_removed == 0:
            return tokens, attention
        if tokens.size_BN is None:
            tokens = tokens._replace(size_BN=ops.ones_like_size(tokens.x_BNC))
        matrix_BHNN = attention.rows(0, tokens.x_BNC.shape[1]) if self.one_step_ahead == "reuse" else None
        attended_BHN = attention.received() if matrix_BHNN is None else matrix_BHNN.mean(dim=2)
        received_BN = attended_BHN.mean(dim=1).detach().clamp(min=LEAST)
        pairs = self.pairs(tokens, received_BN[:, tokens.num_prefix :], num_removed)
        assert tokens.size_BN is not None
        weight_BN = tokens.size_BN.detach() * (received_BN if self.pooling == "attention" else 1)
        merged = ops.merge(tokens, *pairs, weight_BN[:, tokens.num_prefix :])
        again = project(merged)
        if matrix_BHNN is None:
            return merged, again
        return merged, again._replace(matrix_BHNN=merged_map(matrix_BHNN, pairs, weight_BN, tokens.num_prefix))

    def pairs(self, tokens: Tokens, received_BP: Tensor, num_removed: int) -> Pairs:
        """Which patches stay, which join others, and at which place among those that stay."""
        a, b = _places(tokens)
        score_BAM = self._scores(tokens, received_BP)
        first = num_removed // 2 if self.bidirectional else num_removed
        best_BA, partner_BA = score_BAM.max(dim=2)
        order_BA = portable.order(best_BA)
        joins_BX, stays_BX = order_BA[:, :first], portable.ascending(order_BA[:, first:])
        others_BX = torch.arange(score_BAM.shape[2], device=score_BAM.device).expand(score_BAM.shape[0], -1)
        back_BX, into_BX = others_BX[:, :0], others_BX[:, :0]
        if self.bidirectional:
            best_BM, into_BM = ops.take(score_BAM, stays_BX).max(dim=1)
            order_BM = portable.order(best_BM)
            back_BX, others_BX = order_BM[:, : num_removed - first], order_BM[:, num_removed - first :]
            into_BX = into_BM.gather(1, back_BX)
        num_a = stays_BX.shape[1]
        place_BM = partner_BA.new_zeros(
            score_BAM.shape[0], score_BAM.shape[2]
        )  # of each patch of b, among those that stay
        own_BX = torch.arange(others_BX.shape[1], device=a.device).expand_as(others_BX) + num_a
        place_BM = place_BM.scatter(1, others_BX, own_BX).scatter(1, back_BX, into_BX)
        slot_BX = place_BM.gather(1, partner_BA.gather(1, joins_BX))
        return Pairs(
            torch.cat([a[stays_BX], b[others_BX]], dim=1),
            torch.cat([a[joins_BX], b[back_BX]], dim=1),
            torch.cat([slot_BX, into_BX], dim=1),
        )

    @torch.no_grad()
    def _scores(self, tokens: Tokens, received_BP: Tensor) -> Tensor:
        """How well each patch at an even place and each at an odd one would merge: [B, A, M]."""
        a, b = _places(tokens)
        x_BPC, size_BP = tokens.patches_BNC, ops.patch_sizes(tokens)
        score_BAM = torch.ones_like(received_BP[:, :1, None])
        if self.tau_sim:
            score_BAM = ((cosines(x_BPC[:, a], x_BPC[:, b]) + 1) / 2).clamp(min=0) ** (1 / self.tau_sim)
        for value_BP, tau in ((received_BP, self.tau_info), (size_BP, self.tau_size)):
            if tau:
                rare_BP = value_BP.amin(dim=1, keepdim=True) / value_BP  # 1 / value, but for a factor
                score_BAM = score_BAM * (rare_BP[:, a].unsqueeze(2) * rare_BP[:, b].unsqueeze(1)) ** (1 / tau)
        return score_BAM


class Pairs(NamedTuple):
    """As `ops.merge` takes them."""

    keep_BK: Tensor
    rest_BM: Tensor
    slot_BM: Tensor


def _places(tokens: Tokens) -> tuple[Tensor, Tensor]:
    """The patches at even and at odd places of the sequence."""
    first = tokens.num_prefix % 2
    patch_P = torch.arange(tokens.num_patches, device=tokens.x_BNC.device)
    return patch_P[first::2], patch_P[1 - first :: 2]


def merged_map(matrix_BHNN: Tensor, pairs: Pairs, weight_BN: Tensor, num_prefix: int) -> Tensor:
    """The attention map of the merged tokens: columns of a group are added, rows averaged by weight."""
    B, H, N, _ = matrix_BHNN.shape
    K = num_prefix + pairs.keep_BK.shape[1]
    prefix_K = F.pad(torch.arange(num_prefix, device=matrix_BHNN.device), (0, K - num_prefix))
    keep_BK = F.pad(pairs.keep_BK + num_prefix, (num_prefix, 0)) + prefix_K
    rest_BM, slot_BM = pairs.rest_BM + num_prefix, pairs.slot_BM + num_prefix
    columns_BNX = added(matrix_BHNN.permute(0, 3, 1, 2).flatten(2), keep_BK, rest_BM, slot_BM)
    rows_BNX = columns_BNX.view(B, K, H, N).permute(0, 3, 2, 1).flatten(2) * weight_BN.unsqueeze(2)
    rows_BKX = added(rows_BNX, keep_BK, rest_BM, slot_BM)
    total_BK1 = added(weight_BN.unsqueeze(2), keep_BK, rest_BM, slot_BM)
    return (rows_BKX / total_BK1).view(B, K, H, K).transpose(1, 2)


def added(x_BNX: Tensor, keep_BK: Tensor, rest_BM: Tensor, slot_BM: Tensor) -> Tensor:
    """The kept rows, each with the rest that joins it added."""
    kept_BKX, rest_BMX = ops.take(x_BNX, keep_BK), ops.take(x_BNX, rest_BM)
    return portable.add_rows(kept_BKX, slot_BM, rest_BMX)
