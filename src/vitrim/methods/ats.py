"""ATS: Adaptive Token Sampling for Efficient Vision Transformers (Fayyaz et al., ECCV 2022).

Paper: https://arxiv.org/abs/2111.15667. Official code: https://github.com/adaptivetokensampling/ATS (Apache-2.0; this
file is written from the paper and from what the code computes). From block 3 on, each block samples patches by their
scores. Patches of large scores are drawn several times and count once, so that each image keeps its own number.

    s_j = a_j ‖v_j‖ / Σ a_k ‖v_k‖    a: class attention, mean over heads; v: value, all heads together
    F_j = (C_j - C_1) / (C_N - C_1),    C_j = s_1 + ... + s_j    with the scores in rising order
    kept: for each of K points on an even grid from the smallest F above 0 to 1, the patch whose F is nearest
    x_kept = x_kept + softmax(q_kept kᵀ / √d) v    kept patches ask, and all patches answer

No weights: it needs no training, and a model may be trained with it. Images are packed, and an image keeps the same
patches whatever else is in its batch. In the official code they depend on the batch: padding takes the place of the
lowest score, which is never drawn.
As in the official code: K stays the number of the image's patches in all blocks (`samples=1`), so that the number of
tokens falls by itself; the lowest score has F = 0 and is not drawn. With `samples` below 1 the grid is coarser, as in
the paper; the official code fails there. The released table has blocks 3 to 11 of 12.
A model without a class token takes the attention received, or the feature's norm, in place of a.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..core import schedule
from ..core.amount import Amount
from ..core.attention import Attention
from ..core.choices import check_choice
from ..core.method import Method
from ..core.schedule import is_number, is_whole
from ..core.scored import Scorer, check_scorer, score_macs, value_scores
from ..core.selection import keep_queries_where, live_patches
from ..core.spec import ViTSpec
from ..core.tokens import Tokens


@dataclass(frozen=True)
class Samples(Amount):
    """Points that are sampled, as a share of an image's patches; 0 samples nothing, and keeps all."""

    def check(self, value: object, name: str) -> None:
        if not is_number(value) or not 0 <= value <= 1:
            raise ValueError(f"{name}: samples is a number from 0 to 1, not {value!r}.")


SAMPLES = Samples("samples", "samples {:g}", neutral=0, usual=1.0)


@dataclass(frozen=True, kw_only=True)
class ATS(Method):
    """Sample patches by their scores within the attention of a block; what is drawn twice counts once.

    Images of a batch keep different numbers, and none is padded. No compile, no export, no fixed multiply-adds.

    Args:
        samples: points that each block samples, as a share of the image's patches, above 0, at most 1; 0 samples
            nothing and keeps all.
        layers: the blocks that sample, 0-based and increasing; None means the last three quarters (3 to 11 of 12).
        patches: the image's patches; None means the model's.
        scorer: cls, received or norm, see `patch_scores`; a model without a class token needs one of the last two.

    Raises:
        ValueError: If no model can take a setting. `reduce_tokens` raises it for the model at hand.

    Source:
        Fayyaz et al., ECCV 2022, https://arxiv.org/abs/2111.15667.

    >>> ATS(samples=0.5).samples
    0.5
    """

    name = "ats"
    before_attention = True

    samples: float = 1.0
    layers: Sequence[int] | None = None
    patches: int | None = None
    scorer: Scorer = "cls"

    def __post_init__(self) -> None:
        super().__post_init__()
        schedule.check_reducing(self.layers, self.name)
        SAMPLES.check(self.samples, self.name)
        check_choice(self.scorer, Scorer, f"{self.name}: scorer")
        if self.scorer == "shift":
            raise ValueError(
                f"{self.name}: scorer 'shift' is known after the MLP, and ats samples before: use another."
            )
        if self.patches is not None and not (is_whole(self.patches) and self.patches >= 1):
            raise ValueError(f"{self.name}: patches is a whole number of at least 1, not {self.patches!r}.")

    @property
    def amount(self) -> Amount:
        return SAMPLES

    @property
    def varies(self) -> bool:
        return self.samples > 0

    def build(self, spec: ViTSpec) -> ATS:
        check_scorer(self, self.scorer, spec)
        layers = range(max(1, spec.depth // 4), spec.depth) if self.layers is None else self.layers
        layers = schedule.check_layers(tuple(layers), spec.depth, self.name)
        return replace(self, layers=layers, patches=spec.num_patches if self.patches is None else self.patches)

    def num_samples(self, layer: int) -> int:
        """Points that block `layer` samples; 0 if it keeps all."""
        assert isinstance(self.layers, tuple) and self.patches is not None, "build() comes first"
        return schedule.ceil_share(self.samples, self.patches) if self.samples and layer in self.layers else 0

    def num_kept(self, layer: int, num_patches: int) -> int:
        return min(num_patches, self.num_samples(layer) or num_patches)

    def is_active(self, layer: int, num_patches: int) -> bool:
        return self.num_samples(layer) > 0

    def extra_macs(self, layer: int, num_patches: int, spec: ViTSpec) -> int:
        return score_macs(self.scorer, num_patches, spec) if self.is_active(layer, num_patches) else 0

    def within_attention(
        self, layer: int, tokens: Tokens, attention: Attention, project: Callable[[Tokens], Attention]
    ) -> tuple[Tokens, Attention]:
        num_samples = self.num_samples(layer)
        if num_samples == 0:
            return tokens, attention
        if tokens.x_BNC.is_meta:
            raise ValueError(f"{self.name}: how many patches stay depends on the image, and the meta device has none.")
        score_BN = value_scores(self.scorer, tokens, attention)
        return keep_queries_where(tokens, attention, sampled(score_BN.detach(), live_patches(tokens), num_samples))


@torch.no_grad()
def sampled(score_BN: Tensor, live_BN: Tensor, num_samples: int) -> Tensor:
    """Which patches inverse-transform sampling draws: [B, N], bool. An image's only patch is always drawn."""
    rising_BN, order_BN = score_BN.masked_fill(~live_BN, torch.inf).sort(dim=1, stable=True)
    last_B1 = live_BN.sum(dim=1, keepdim=True) - 1
    is_live_BN = torch.arange(live_BN.shape[1], device=live_BN.device) <= last_B1
    share_BN = rising_BN.masked_fill(~is_live_BN, 0.0).cumsum(dim=1)
    first_B1 = share_BN[:, :1]
    share_BN = (share_BN - first_B1) / (share_BN.gather(1, last_B1) - first_B1)
    share_BN = share_BN.nan_to_num(nan=1.0).masked_fill(~is_live_BN, torch.inf)
    least_B1 = share_BN.masked_fill(share_BN <= 0, torch.inf).amin(dim=1, keepdim=True)
    step_K = torch.linspace(0, 1, num_samples, dtype=share_BN.dtype, device=share_BN.device)
    point_BK = least_B1 + step_K * (1 - least_B1)
    drawn_BK = (point_BK.unsqueeze(2) - share_BN.unsqueeze(1)).abs().argmin(dim=2)
    return torch.zeros_like(live_BN).scatter(1, order_BN.gather(1, drawn_BK), True)
