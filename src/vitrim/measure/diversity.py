"""The diversity score of BAT (Long et al., CVPR 2023, eq. 4): how much the tokens of an image differ.

https://arxiv.org/abs/2211.11315. The distance of the token matrix Z from the nearest matrix with one of its own
tokens in every row: r(Z) = min over tokens z of || Z - 1 z^T ||_1.

The paper does not say which l1 norm. Ours is the sum of absolute entries. Relative to that of Z, the score is slightly
below 1 and falls with the keep rate, as in the paper's Figure 4 (0.68 to 0.92, DeiT-S): we measured 0.96, 0.94, 0.92,
0.84 at keep rates 0.7, 0.5, 0.3, 0.1 (DeiT-T without training, EViT, after block 9, 32 images). With the relative
operator norm it does not fall: 0.66, 0.66, 0.73, 0.67.
"""

from __future__ import annotations

import torch
from torch import Tensor


def diversity(tokens_BNC: Tensor, *, relative: bool = False) -> Tensor:
    """Compute the diversity score of the tokens of each image.

    Args:
        tokens_BNC: features, [B, N, C].
        relative: divide by the sum of absolute features, which makes models and token counts comparable. This is the
            scale of the paper's Figure 4, with values below 1. Random tokens score about 1.3.

    Returns:
        [B], at least 0. All-zero tokens score 0.

    Raises:
        ValueError: for another shape, or without tokens.
    """
    if tokens_BNC.ndim != 3 or tokens_BNC.shape[1] == 0:
        raise ValueError(f"diversity needs tokens [B, N, C] with N of at least 1, not {tuple(tokens_BNC.shape)}.")
    z_BNC = tokens_BNC if tokens_BNC.dtype == torch.float64 else tokens_BNC.float()
    distance_BNN = torch.cdist(z_BNC, z_BNC, p=1)
    score_B = distance_BNN.sum(dim=1).amin(dim=1)
    if not relative:
        return score_B
    size_B = z_BNC.abs().sum(dim=(1, 2))
    return torch.where(size_B > 0, score_B / size_B.clamp_min(torch.finfo(size_B.dtype).tiny), 0.0)
