"""SiT: Self-slimmed Vision Transformer (Zong et al., ECCV 2022).

Paper: https://arxiv.org/abs/2111.12624. Official code: https://github.com/Sense-X/SiT (Apache-2.0). Before a reducing
block the token slimming module turns the patches into a fixed number of slots, each a mean of all patches. The weights
follow from each patch alone.

    A = softmax(τ (GELU(LN(X) W_1) W_2)ᵀ)    the softmax over patches; W_1: C to C / 2, W_2: C / 2 to K, τ learned
    Y = A X

As in the official code: X in the last line is not normed; the class token takes no part; the norm has eps 1e-5. The
paper slims DeiT and LV-ViT in three stages. Its distillation, which turns slots back into patches with a reverse
module in training, is not here: the model trains on the usual losses and any teacher.
The weights are random until they are trained (`blocks.<layer>.method.weight.*`, `.scale`): train the model before you
use it. A trace shows each patch in the slot to which it gives most.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..core.precision import at_least_fp32, matmul_fp32, without_autocast
from ..core.slots import SlotMethod, to_slots
from ..core.spec import ViTSpec
from ..core.tokens import Tokens


@dataclass(frozen=True, kw_only=True)
class SiT(SlotMethod):
    """Slim the patches into slots by a small MLP before a block. The MLP must be trained.

    Args:
        keep_rate: slots of a stage as a share of the patches before it, one number or one per layer; above 0, at most
            1. The counts are int(P * rate * rate ...), P the patches of an image.
        layers: reducing blocks, 0-based and increasing; None means a quarter of the depth apart (3, 6, 9 of 12).
        patches: P; None means the model's. Images of another size get the same slots.

    Raises:
        ValueError: If no model can take a setting. `reduce_tokens` raises it for the model at hand.

    Source:
        Zong et al., ECCV 2022, https://arxiv.org/abs/2111.12624.

    >>> SiT(keep_rate=0.5).keep_rate
    0.5
    """

    name = "sit"

    def make_slots(self, num_slots: int, spec: ViTSpec) -> nn.Module:
        return Slimming(num_slots, spec.channels)

    def extra_macs(self, layer: int, num_patches: int, spec: ViTSpec) -> int:
        num_kept = self.num_kept(layer, num_patches)
        if num_kept == num_patches:
            return 0
        hidden = hidden_width(spec.channels)
        return num_patches * (hidden * (spec.channels + num_kept) + num_kept * spec.channels)

    def reduce(self, layer: int, tokens: Tokens, num_kept: int) -> Tokens:
        x_BNC = tokens.patches_BNC
        weight_BKN = self.learned(layer, Slimming, num_kept)(x_BNC)
        return to_slots(tokens, matmul_fp32(weight_BKN, x_BNC), weight_BKN)


class Slimming(nn.Module):
    """What one block learns: the MLP that weighs patches, and the sharpness of the weights."""

    def __init__(self, num_slots: int, channels: int):
        super().__init__()
        self.num_slots = num_slots
        hidden = hidden_width(channels)
        self.weight = nn.Sequential(
            nn.LayerNorm(channels), nn.Linear(channels, hidden), nn.GELU(), nn.Linear(hidden, num_slots)
        )
        self.scale = nn.Parameter(torch.ones(1, 1, 1))

    def forward(self, x_BNC: Tensor) -> Tensor:
        """[B, N, C] to the weights of the slots, [B, K, N], in at least fp32."""
        logit_BNK = at_least_fp32(without_autocast(self.weight, x_BNC.to(self.scale.dtype))) * at_least_fp32(self.scale)
        return logit_BNK.transpose(1, 2).softmax(dim=2)


def hidden_width(channels: int) -> int:
    """Hidden width of the MLP: half of the channels."""
    return channels // 2
