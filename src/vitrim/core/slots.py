"""Slots: a fixed number of learned tokens, each a weighted sum over all patches.

PatchMerger, SiT and the Sinkhorn tokenizer differ in how the weights come about.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from . import portable
from .ops import follow
from .rotary import NO_POSITION
from .seeds import seeded
from .spec import ViTSpec
from .staged import StagedMethod
from .tokens import Tokens

W = TypeVar("W", bound=nn.Module)


@dataclass(frozen=True, kw_only=True)
class SlotMethod(StagedMethod):
    """Base of methods that replace the patches by slots. A stage learns its number of slots, for images of any size.

    A method overrides `make_slots`, and `reduce` through `to_slots`.
    """

    merges = True
    fuses = True
    needs_training = True
    propagates = True

    def num_attentive(self, layer: int, num_patches: int) -> int:
        stage = self.stage(layer)
        return num_patches if stage is None else min(stage[1], num_patches)

    def make_weights(self, layer: int, spec: ViTSpec) -> nn.Module | None:
        stage = self.stage(layer)
        if stage is None or stage[0] == stage[1]:
            return None
        with seeded(layer):
            return self.make_slots(stage[1], spec)

    def make_slots(self, num_slots: int, spec: ViTSpec) -> nn.Module:
        """New weights for that many slots."""
        raise NotImplementedError

    def learned(self, layer: int, kind: type[W], num_slots: int) -> W:
        """The weights of the block at work. ValueError if it has none, or those of another number of slots."""
        there = getattr(self.weights, "num_slots", 0)
        if not isinstance(self.weights, kind) or there != num_slots:
            raise ValueError(
                f"{self.name}: block {layer} has {there} learned slots and needs {num_slots}: apply the method with "
                "reduce_tokens, which makes them, and train the model (vitrim train). Learned slots fit one keep rate."
            )
        return self.weights


def to_slots(tokens: Tokens, rows_BKC: Tensor, weight_BKN: Tensor) -> Tokens:
    """Replace the patches by slots: [B, N] -> [B, prefix + K]. Slots have no position (core/rotary.py).

    weight_BKN: the weight of each patch in each slot, above 0. A trace shows each patch in one slot, by `holders`.
    """
    x_BNC, prefix = tokens.x_BNC, tokens.num_prefix
    x_BNC = torch.cat([x_BNC[:, :prefix], rows_BKC.to(x_BNC.dtype)], dim=1)
    position_BK = None
    if tokens.uses_rope:
        position_BK = torch.full_like(rows_BKC[:, :, 0], NO_POSITION, dtype=torch.long)
    out = tokens._replace(x_BNC=x_BNC, size_BN=None, position_BK=position_BK)
    if not tokens.traced:
        return out
    weight_BKN = weight_BKN.detach()
    slot_BN = holders(weight_BKN)
    weight_BN = weight_BKN.gather(1, slot_BN.unsqueeze(1)).squeeze(1)
    total_BK = portable.add_at(torch.zeros_like(weight_BKN[:, :, 0]), slot_BN, weight_BN)
    total_BN = total_BK.gather(1, slot_BN).clamp(min=torch.finfo(total_BK.dtype).tiny)
    return follow(out, tokens, slot_BN, weight_BN / total_BN)


def holders(weight_BKN: Tensor) -> Tensor:
    """The slot that each patch is shown in: [B, N]. That of the largest weight, but no slot stays empty.

    Each slot keeps the best of the patches that weigh most there. Of the others, those with the smallest weights fill
    the slots in which no patch weighs most.
    """
    K, N = weight_BKN.shape[1:]
    value_BN, slot_BN = weight_BKN.max(dim=1)
    slot_K1, token_N = (torch.arange(n, device=slot_BN.device) for n in (K, N))
    held_BKN = slot_BN.unsqueeze(1) == slot_K1.unsqueeze(1)
    best_BK = torch.where(held_BKN, value_BN.unsqueeze(1), -torch.inf).argmax(dim=2)
    stays_BN = (held_BKN & (token_N == best_BK.unsqueeze(2))).any(dim=1)
    loosest_BK = portable.order(torch.where(stays_BN, -torch.inf, -value_BN))[:, :K]
    filled_BK = held_BKN.any(dim=2)
    empty_BK = portable.flagged_last(filled_BK)
    moves_BK = slot_K1 < (~filled_BK).sum(dim=1, keepdim=True)
    return slot_BN.scatter(1, loosest_BK, torch.where(moves_BK, empty_BK, slot_BN.gather(1, loosest_BK)))
