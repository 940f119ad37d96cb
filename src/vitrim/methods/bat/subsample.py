"""Learned ways to turn M tokens of each image into G. Their weights fit any M and any G.

Groups are runs of neighbours, as in `grouping.consecutive`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...core.precision import at_least_fp32, matmul_fp32

TAPS = 3  # kernel size and stride of the convolution over a group


def tap_matrix(num_tokens: int, num_groups: int, like: Tensor) -> Tensor:
    """The matrix that averages tokens to the taps of each group: [G * TAPS, M], rows summing to 1.

    A group of at least TAPS tokens is cut into TAPS runs. In a smaller group a token serves several taps.
    like: gives the device and the dtype, which is at least fp32, because bf16 would round a third.
    """
    edge = (torch.arange(num_groups + 1, device=like.device) * num_tokens + num_groups - 1) // num_groups
    first_G1, length_G1 = edge[:-1, None], (edge[1:] - edge[:-1])[:, None]
    tap_T = torch.arange(TAPS, device=like.device)
    low_GT = tap_T * length_G1 // TAPS
    high_GT = torch.maximum((tap_T + 1) * length_G1 // TAPS, low_GT + 1)
    low_L1, high_L1 = ((first_G1 + offset_GT).reshape(-1, 1) for offset_GT in (low_GT, high_GT))
    token_M = torch.arange(num_tokens, device=like.device)
    inside_LM = (token_M >= low_L1) & (token_M < high_L1)
    return at_least_fp32(inside_LM.to(like.dtype)) / (high_L1 - low_L1)


class Convolution(nn.Module):
    """A convolution whose stride equals its kernel size, so each token flows into one group. Starts as a mean."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv1d(channels, channels, TAPS, stride=TAPS, bias=False)
        with torch.no_grad():
            self.conv.weight.copy_(torch.eye(channels).unsqueeze(-1).expand(-1, -1, TAPS) / TAPS)

    @staticmethod
    def macs(num_tokens: int, num_groups: int, channels: int) -> int:
        """Multiply-adds for one image, the means of taps included."""
        return num_groups * TAPS * channels * (num_tokens + channels)

    @staticmethod
    def shares(num_tokens: int, num_groups: int, like: Tensor) -> Tensor:
        """The share of each token in its group before training: [M]."""
        return tap_matrix(num_tokens, num_groups, like).sum(dim=0) / TAPS

    def forward(self, x_BMC: Tensor, num_groups: int) -> Tensor:
        """[B, M, C] to [B, num_groups, C]."""
        taps_BLC = matmul_fp32(tap_matrix(x_BMC.shape[1], num_groups, x_BMC), x_BMC).to(x_BMC.dtype)
        return self.conv(taps_BLC.transpose(1, 2)).transpose(1, 2)


class Gate(nn.Module):
    """An MLP that scales the weight of each token in its group by a factor in (0, 2), which starts at 1."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.fc1 = nn.Linear(channels, hidden_width(channels))
        self.fc2 = nn.Linear(hidden_width(channels), 1, bias=False)  # a bias would scale all tokens equally
        nn.init.trunc_normal_(self.fc1.weight, std=0.02)
        nn.init.zeros_(self.fc1.bias)
        nn.init.zeros_(self.fc2.weight)

    @staticmethod
    def macs(num_tokens: int, channels: int) -> int:
        """Multiply-adds for one image."""
        return num_tokens * hidden_width(channels) * (channels + 1)

    def forward(self, x_BMC: Tensor) -> Tensor:
        """[B, M, C] to factors [B, M], in at least fp32."""
        logit_BM1 = self.fc2(nn.functional.gelu(self.fc1(self.norm(x_BMC))))
        return 2 * at_least_fp32(logit_BM1.squeeze(-1)).sigmoid()


def hidden_width(channels: int) -> int:
    """Hidden width of the gate's MLP: a quarter of the channels."""
    return max(1, channels // 4)
