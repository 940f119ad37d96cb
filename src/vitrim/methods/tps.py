"""TPS: Joint Token Pruning and Squeezing Towards More Aggressive Compression of Vision Transformers (CVPR 2023).

By Wei et al. Paper: https://arxiv.org/abs/2304.10716. Official code: https://github.com/megvii-research/TPS-CVPR2023
(Apache-2.0; this file is written from the paper and from what the code computes). This is dTPS, with the predictor of
DynamicViT: before a reducing block the patches that are least likely to stay merge into those that they resemble.

    kept: the int(P rate^s) patches of the largest p_i, the predicted probability to stay
    j(i) = argmax_j cos(x_i, x_j)    over the kept j, for each patch i that is not kept
    x_j = (e x_j + Σ w_i x_i) / (e + Σ w_i),    w_i = e^(cos(x_i, x_j) / τ)    over the i with j(i) = j
    L = CE + 2 / S Σ_s (mean of D after stage s - rate^s)²    in training, D the decisions, over the S stages

As in the official code: a kept patch weighs e, whatever τ; 1e-6 is added to the norms in the cosine; all features are
those that enter the block; the class token takes no part. In training decisions are drawn, and tokens masked as in
DynamicViT, whose losses these are. Both compute the same for the same decisions. `softmax_eps=1e-6` is the released
masked softmax; the default has none. Its other form, eTPS, ranks by class attention inside the block, and is not here.
The predictors are random until they are trained (`blocks.<layer>.method.in_conv.*`, `.out_conv.*`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..core import masking, ops, portable
from ..core.precision import at_least_fp32, matmul_fp32
from ..core.predicted import PredictedMethod
from ..core.schedule import is_number
from ..core.spec import ViTSpec
from ..core.tokens import Tokens

SMALL = 1e-6  # added to norms


@dataclass(frozen=True, kw_only=True)
class TPS(PredictedMethod):
    """Drop the patches that a learned predictor ranks last, after they merged into the most similar kept ones.

    Args:
        keep_rate: share of the patches that a stage leaves, one number or one per layer; above 0, at most 1. The counts
            are int(P * rate * rate ...), P the patches of an image.
        layers: reducing blocks, 0-based and increasing; None means a quarter of the depth apart (3, 6, 9 of 12).
        patches: P; None means the model's. Images of another size take the counts in proportion.
        softmax_eps: added to the sums of the masked softmax in training, at least 0; 1e-6 as released.
        temperature: of the weights in a mean; above 0.

    Raises:
        ValueError: If no model can take a setting. `reduce_tokens` raises it for the model at hand.

    Source:
        Wei et al., CVPR 2023, https://arxiv.org/abs/2304.10716.

    >>> TPS(keep_rate=0.5).temperature
    1.0
    """

    name = "tps"

    temperature: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not is_number(self.temperature) or not 0 < self.temperature < float("inf"):
            raise ValueError(f"{self.name}: temperature is a number above 0, not {self.temperature!r}.")

    @property
    def merges(self) -> bool:
        return True

    def extra_macs(self, layer: int, num_patches: int, spec: ViTSpec) -> int:
        num_kept = self.num_kept(layer, num_patches)
        squeezing = (num_patches - num_kept) * num_kept * spec.channels
        return super().extra_macs(layer, num_patches, spec) + squeezing

    def reduce(self, layer: int, tokens: Tokens, num_kept: int) -> Tokens:
        keep_BK, rest_BM = ops.rank(self.predictor(layer).margin(tokens.patches_BNC), num_kept)
        return squeeze(tokens, portable.ascending(keep_BK), portable.ascending(rest_BM), self.temperature)

    def reduce_masked(self, tokens: Tokens, was_BP: Tensor, stays_BP: Tensor) -> Tokens:
        x_BPC, joins_BP = tokens.patches_BNC, was_BP & ~stays_BP
        similarity_BPP = _similarities(x_BPC, x_BPC).masked_fill(~stays_BP.unsqueeze(1), -torch.inf)
        best = similarity_BPP.max(dim=2)
        weight_BP = torch.where(joins_BP, best.values / self.temperature, 1.0).exp()
        return masking.merge_masked(tokens, joins_BP, best.indices, weight_BP, torch.zeros_like(joins_BP))


def squeeze(tokens: Tokens, keep_BK: Tensor, rest_BM: Tensor, temperature: float) -> Tokens:
    """Merge each of the rest into the kept patch that it resembles most."""
    x_BPC = tokens.patches_BNC
    similarity_BM, slot_BM = _similarities(ops.take(x_BPC, rest_BM), ops.take(x_BPC, keep_BK)).max(dim=2)
    own_BP = torch.ones_like(similarity_BM[:, :1]).expand(-1, x_BPC.shape[1])
    weight_BP = own_BP.scatter(1, rest_BM, similarity_BM / temperature).exp()
    return ops.merge(tokens, keep_BK, rest_BM, slot_BM, weight_BP)


def _similarities(a_BMC: Tensor, b_BKC: Tensor) -> Tensor:
    """The cosine of each row of a and each of b, with 1e-6 added to the norms: [B, M, K]."""
    a_BMC, b_BKC = at_least_fp32(a_BMC), at_least_fp32(b_BKC)
    a_BMC, b_BKC = a_BMC / (portable.norm(a_BMC) + SMALL), b_BKC / (portable.norm(b_BKC) + SMALL)
    return matmul_fp32(a_BMC, b_BKC.transpose(1, 2))
