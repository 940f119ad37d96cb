"""PatchMerger: Learning to Merge Tokens in Vision Transformers (Renggli et al., 2022).

Paper: https://arxiv.org/abs/2202.12015. No official code is public. This file is written from the paper, and matched
to https://github.com/JoakimHaurum/TokenReduction (MIT in part). Before a reducing block the patches become a fixed
number of slots, each a mean of all patches with weights by a learned query.

    Y = softmax(W LN(X)ᵀ) LN(X)    the softmax over patches, for each of the K rows of W

The paper puts one PatchMerger into the middle of a model, with 8 slots for an image of any size. Here, as in
TokenReduction's comparison (Haurum et al., ICCV workshops 2023, https://arxiv.org/abs/2308.04657), there is one before
each reducing block, with numbers of slots from the keep rate; `PatchMerger(layers=[6], keep_rate=0.041)` has 8 of 196.
As there: the class token takes no part; the norm has eps 1e-5.
Queries are random until they are trained (`blocks.<layer>.method.queries`, `.norm.*`): train the model before you use
it. A trace shows each patch in the slot to which it gives most.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from ..core.precision import at_least_fp32, matmul_fp32
from ..core.slots import SlotMethod, to_slots
from ..core.spec import ViTSpec
from ..core.tokens import Tokens


@dataclass(frozen=True, kw_only=True)
class PatchMerger(SlotMethod):
    """Mix the patches into slots by learned queries before a block. The queries must be trained.

    Args:
        keep_rate: slots of a stage as a share of the patches before it, one number or one per layer; above 0, at most
            1. The counts are int(P * rate * rate ...), P the patches of an image.
        layers: reducing blocks, 0-based and increasing; None means a quarter of the depth apart (3, 6, 9 of 12).
        patches: P; None means the model's. Images of another size get the same slots.

    Raises:
        ValueError: If no model can take a setting. `reduce_tokens` raises it for the model at hand.

    Source:
        Renggli et al., 2022, https://arxiv.org/abs/2202.12015.

    >>> PatchMerger(keep_rate=0.5).keep_rate
    0.5
    """

    name = "patch_merger"

    def make_slots(self, num_slots: int, spec: ViTSpec) -> nn.Module:
        return Queries(num_slots, spec.channels)

    def extra_macs(self, layer: int, num_patches: int, spec: ViTSpec) -> int:
        num_kept = self.num_kept(layer, num_patches)
        return 2 * num_kept * num_patches * spec.channels if num_kept < num_patches else 0

    def reduce(self, layer: int, tokens: Tokens, num_kept: int) -> Tokens:
        learned = self.learned(layer, Queries, num_kept)
        normed_BNC = learned.norm(tokens.patches_BNC)
        weight_BKN = matmul_fp32(normed_BNC, at_least_fp32(learned.queries).t()).transpose(1, 2).softmax(dim=2)
        return to_slots(tokens, matmul_fp32(weight_BKN, normed_BNC), weight_BKN)


class Queries(nn.Module):
    """What one block learns: a norm, and a query for each slot."""

    def __init__(self, num_slots: int, channels: int):
        super().__init__()
        self.num_slots = num_slots
        self.norm = nn.LayerNorm(channels)
        self.queries = nn.Parameter(torch.randn(num_slots, channels) * channels**-0.5)
