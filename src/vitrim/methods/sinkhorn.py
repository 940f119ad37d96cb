"""Sinkhorn: Multi-scale hybrid vision transformer and Sinkhorn tokenizer for sewer defect classification (2022).

By Haurum et al., Automation in Construction 144. Paper: https://doi.org/10.1016/j.autcon.2022.104614. In a plain ViT
since Haurum et al., ICCV workshops 2023, https://arxiv.org/abs/2308.04657.
Official code: https://github.com/JoakimHaurum/TokenReduction (MIT in part; this file is written from what it
computes). Before a reducing block the patches become a fixed number of slots, by optimal transport to learned centres.

    S_ki = v_k · x_i / (‖v_k‖ ‖x_i‖ ε)    v_k: the centre of slot k, learned
    T = Sinkhorn(exp S)    rows, then columns, scaled to sum to 1 / (K + N), as often as `iterations` says
    y_k = (K + N) Σ_i T_ki x_i / ‖x_i‖    over all N patches

As in the official code: the sum is over patches of length 1 and is not normalised again; the class token takes no part.
Different: gradients flow through the length of a centre; there the centre is overwritten by its unit vector instead.
Centres are random until they are trained (`blocks.<layer>.method.v`): train the model first. A trace shows
each patch in the slot to which it gives most.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..core import portable
from ..core.precision import at_least_fp32, matmul_fp32
from ..core.schedule import is_number, is_whole
from ..core.slots import SlotMethod, to_slots
from ..core.spec import ViTSpec
from ..core.tokens import Tokens


@dataclass(frozen=True, kw_only=True)
class Sinkhorn(SlotMethod):
    """Transport the patches to learned centres before a block. The centres must be trained.

    Args:
        keep_rate: slots of a stage as a share of the patches before it, one number or one per layer; above 0, at most
            1. The counts are int(P * rate * rate ...), P the patches of an image.
        layers: reducing blocks, 0-based and increasing; None means a quarter of the depth apart (3, 6, 9 of 12).
        patches: P; None means the model's. Images of another size get the same slots.
        eps: temperature of the transport; above 0.
        iterations: of Sinkhorn's scaling.

    Raises:
        ValueError: If no model can take a setting. `reduce_tokens` raises it for the model at hand.

    Source:
        Haurum et al., Automation in Construction 2022, https://doi.org/10.1016/j.autcon.2022.104614.

    >>> Sinkhorn(keep_rate=0.5).eps
    1.0
    """

    name = "sinkhorn"

    eps: float = 1.0
    iterations: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        if not is_number(self.eps) or not self.eps > 0:
            raise ValueError(f"{self.name}: eps is a number above 0, not {self.eps!r}.")
        if not is_whole(self.iterations) or self.iterations < 1:
            raise ValueError(f"{self.name}: iterations is a whole number of at least 1, not {self.iterations!r}.")

    def make_slots(self, num_slots: int, spec: ViTSpec) -> nn.Module:
        return Centres(num_slots, spec.channels)

    def extra_macs(self, layer: int, num_patches: int, spec: ViTSpec) -> int:
        num_kept = self.num_kept(layer, num_patches)
        return 2 * num_kept * num_patches * spec.channels if num_kept < num_patches else 0

    def reduce(self, layer: int, tokens: Tokens, num_kept: int) -> Tokens:
        centre_KC = portable.unit(at_least_fp32(self.learned(layer, Centres, num_kept).v))
        unit_BNC = portable.unit(at_least_fp32(tokens.patches_BNC))
        weight_BKN = transport(matmul_fp32(unit_BNC, centre_KC.t()).transpose(1, 2) / self.eps, self.iterations)
        return to_slots(tokens, matmul_fp32(weight_BKN, unit_BNC), weight_BKN)


class Centres(nn.Module):
    """What one block learns: a centre for each slot."""

    def __init__(self, num_slots: int, channels: int):
        super().__init__()
        self.num_slots = num_slots
        self.v = nn.Parameter(torch.randn(num_slots, channels))


def transport(logit_BKN: Tensor, iterations: int) -> Tensor:
    """exp(logits) with rows and columns scaled in turn to sum to 1, the columns last: [B, K, N]."""
    column_B1N = torch.zeros_like(logit_BKN[:, :1])
    for _ in range(iterations):
        row_BK1 = -(logit_BKN + column_B1N).logsumexp(dim=2, keepdim=True)
        column_B1N = -(logit_BKN + row_BK1).logsumexp(dim=1, keepdim=True)
    return (logit_BKN + row_BK1 + column_B1N).exp()
