"""DynamicViT: Efficient Vision Transformers with Dynamic Token Sparsification (Rao et al., NeurIPS 2021).

Paper: https://arxiv.org/abs/2106.02034. Official code: https://github.com/raoyongming/DynamicViT (MIT; this file is
written from the paper and from what the code computes). Before a reducing block a small predictor says of each patch
how likely it is to stay, from its features and the mean of all.

    p_i = softmax(MLP([local_i, mean of the shared]))    local_i, shared_i: halves of GELU(W LN(x_i)), eq. 1 to 4
    at inference: the int(P rate^s) patches of the largest p stay, or with `threshold` those whose p exceeds it
    in training: D_i = D_i before times Gumbel-Softmax(p_i), hard, with a straight-through gradient, eq. 6 and 10
    A_ij = exp(l_ij) G_ij / (Σ_k exp(l_ik) G_ik + eps)    G_ij = 1 where i = j, else D_j, eq. 11 and 12
    L = CE + 2 / S Σ_s (mean of D after stage s - rate^s)²    over the S stages, mean over the images, eq. 18

In training tokens are masked, at inference they are removed; both give the same logits for the same decisions.
As in the official code: the class token takes no part; the norm of the predictor has eps 1e-5.
Different: the softmax has no eps, as in the paper. `softmax_eps=1e-6` is the released training, in which dropped
patches keep a little weight and the numbers differ from those of inference. The paper also distils from the model
before: half of a divergence between logits is `distillation: soft` in a recipe, half of one between the tokens
that stay is not here. For a head that pools patches, masked ones count as the mean of the others.
The predictors are random until they are trained (`blocks.<layer>.method.in_conv.*`, `.out_conv.*`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..core import ops, portable
from ..core.predicted import PredictedMethod
from ..core.schedule import is_number
from ..core.selection import keep_where, live_patches
from ..core.tokens import Tokens


@dataclass(frozen=True, kw_only=True)
class DynamicViT(PredictedMethod):
    """Drop the patches that a learned predictor ranks last, before a block.

    With `threshold`, images of a batch keep different numbers, and none is padded: no compile, no export, no fixed
    multiply-adds.

    Args:
        keep_rate: share of the patches that a stage leaves, one number or one per layer; above 0, at most 1. The counts
            are int(P * rate * rate ...), P the patches of an image. Training aims at these shares.
        layers: reducing blocks, 0-based and increasing; None means a quarter of the depth apart (3, 6, 9 of 12).
        patches: P; None means the model's. Images of another size take the counts in proportion.
        threshold: at inference, keep the patches whose probability to stay exceeds it, 0 to 1, in place of a count.
        softmax_eps: added to the sums of the masked softmax in training, at least 0; 1e-6 as released.

    Raises:
        ValueError: If no model can take a setting. `reduce_tokens` raises it for the model at hand.

    Source:
        Rao et al., NeurIPS 2021, https://arxiv.org/abs/2106.02034.

    >>> DynamicViT(keep_rate=0.9).threshold is None
    True
    """

    name = "dynamicvit"

    threshold: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.threshold is not None and not (is_number(self.threshold) and 0 <= self.threshold <= 1):
            raise ValueError(f"{self.name}: threshold is a number from 0 to 1, or None, not {self.threshold!r}.")

    @property
    def varies(self) -> bool:
        return self.threshold is not None

    def num_kept(self, layer: int, num_patches: int) -> int:
        return num_patches if self.varies else super().num_kept(layer, num_patches)

    def before_block(self, layer: int, tokens: Tokens) -> Tokens:
        if self.threshold is None or not self.decides(layer) or self.predictor(layer).training:
            return super().before_block(layer, tokens)
        if tokens.x_BNC.is_meta:
            raise ValueError(f"{self.name}: how many patches stay depends on the image, and the meta device has none.")
        live_BP = live_patches(tokens)
        stay_BP = self.predictor(layer).margin(tokens.patches_BNC, live_BP).detach().masked_fill(~live_BP, -torch.inf)
        most_B1 = stay_BP.argmax(dim=1, keepdim=True)  # an image keeps one patch
        return keep_where(tokens, (stay_BP.sigmoid() > self.threshold).scatter(1, most_B1, True))

    def reduce(self, layer: int, tokens: Tokens, num_kept: int) -> Tokens:
        keep_BK, _ = ops.rank(self.predictor(layer).margin(tokens.patches_BNC), num_kept)
        return ops.keep(tokens, portable.ascending(keep_BK))
