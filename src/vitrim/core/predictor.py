"""DynamicViT's predictor (https://arxiv.org/abs/2106.02034, eq. 1 to 4), which says whether a patch stays.

TPS learns it too.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .precision import at_least_fp32, without_autocast


class Predictor(nn.Module):
    """Log-probabilities that a patch stays and that it goes, from its features and the mean of the live ones.

    Half of the channels are those of the patch, the other half is the mean. The norm has eps 1e-5, as released.
    """

    def __init__(self, channels: int):
        super().__init__()
        half, quarter = channels // 2, channels // 4
        self.in_conv = nn.Sequential(nn.LayerNorm(channels), nn.Linear(channels, channels), nn.GELU())
        self.out_conv = nn.Sequential(
            nn.Linear(channels, half), nn.GELU(), nn.Linear(half, quarter), nn.GELU(), nn.Linear(quarter, 2)
        )

    @staticmethod
    def macs(num_patches: int, channels: int) -> int:
        """Multiply-adds for one image."""
        half, quarter = channels // 2, channels // 4
        return num_patches * (channels * channels + channels * half + half * quarter + quarter * 2)

    def forward(self, x_BPC: Tensor, live_BP: Tensor | None = None) -> Tensor:
        """[B, P, C] to log-probabilities [B, P, 2], in at least fp32: first that the patch stays.

        live_BP: weights of the patches in the mean; None: all the same.
        """
        return self.logits(x_BPC, live_BP).log_softmax(dim=2)

    def margin(self, x_BPC: Tensor, live_BP: Tensor | None = None) -> Tensor:
        """The log-odds that a patch stays, [B, P], which rank more finely than log-probabilities."""
        stay_BP, go_BP = self.logits(x_BPC, live_BP).unbind(dim=2)
        return stay_BP - go_BP

    def logits(self, x_BPC: Tensor, live_BP: Tensor | None = None) -> Tensor:
        """Before the softmax, in full precision also under autocast, because a choice in bf16 would be another."""
        weight = next(self.parameters())
        return without_autocast(lambda x_BPC: at_least_fp32(self._logits(x_BPC, live_BP)), x_BPC.to(weight.dtype))

    def _logits(self, x_BPC: Tensor, live_BP: Tensor | None) -> Tensor:
        inner_BPC = self.in_conv(x_BPC)
        local_BPX, shared_BPX = inner_BPC.tensor_split([inner_BPC.shape[2] // 2], dim=2)
        if live_BP is None:
            mean_B1X = shared_BPX.mean(dim=1, keepdim=True)
        else:
            live_BP1 = live_BP.unsqueeze(2).to(shared_BPX.dtype)
            mean_B1X = (shared_BPX * live_BP1).sum(dim=1, keepdim=True) / live_BP1.sum(dim=1, keepdim=True).clamp(min=1)
        mixed: Tensor = self.out_conv(torch.cat([local_BPX, mean_B1X.expand_as(shared_BPX)], dim=2))
        return mixed
