"""DPC-KNN: clusters by density peaks, as TCFormer merges its tokens (Zeng et al., CVPR 2022).

Paper: https://arxiv.org/abs/2204.08680. Official code: https://github.com/zengwang430521/TCFormer (Apache-2.0). In a
plain ViT, and in comparisons with other methods, since Haurum et al. (ICCV workshops 2023,
https://arxiv.org/abs/2308.04657; code: https://github.com/JoakimHaurum/TokenReduction), which this follows. Before a
reducing block the patches are clustered, and each cluster becomes the weighted mean of its patches.

    ρ_i = exp(-mean of ‖x_i - x_j‖² / C)    over the k nearest j, itself among them: how dense it is around i
    δ_i = min ‖x_i - x_j‖    over the denser j; of the densest patch, the largest distance of all
    centres: the int(P rate^s) patches of largest ρ_i δ_i; the others join the nearest centre
    x_A = Σ p_i x_i / (Σ p_i + 1e-6)    over the i in A; p_i = exp(w · x_i + b), learned, or 1

As in the official code: distances between the features that enter the block; the 1e-6; the class token takes no part.
Different: equal densities rank by index, where the official code adds noise of 1e-6 to every density. TCFormer also
adds the learned scores to its attention, which TokenReduction does not. The scores start at 0: until they are trained
(`blocks.<layer>.method.score.*`) all patches weigh the same, as with weighting="equal".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from ..core import ops, portable
from ..core.choices import check_choice
from ..core.grouping import density_peaks
from ..core.precision import at_least_fp32, without_autocast
from ..core.schedule import is_whole
from ..core.spec import ViTSpec
from ..core.staged import StagedMethod
from ..core.tokens import Tokens

DPCWeighting = Literal["learned", "equal"]
SMALL = 1e-6  # in the denominator of every mean


@dataclass(frozen=True, kw_only=True)
class DPCKNN(StagedMethod):
    """Cluster all patches by density peaks before a block, and merge each cluster.

    Args:
        keep_rate: share of the patches that a stage leaves, one number or one per layer; above 0, at most 1. The counts
            are int(P * rate * rate ...), P the patches of an image.
        layers: reducing blocks, 0-based and increasing; None means a quarter of the depth apart (3, 6, 9 of 12).
        patches: P; None means the model's. Images of another size take the counts in proportion.
        neighbours: number of nearest patches, itself included, for the density.
        weighting: what a patch weighs in its cluster: learned (as in the paper; equal until trained) or equal.

    Raises:
        ValueError: If no model can take a setting. `reduce_tokens` raises it for the model at hand.

    Source:
        Zeng et al., CVPR 2022, https://arxiv.org/abs/2204.08680; in a plain ViT Haurum et al., ICCV workshops 2023,
        https://arxiv.org/abs/2308.04657.

    >>> DPCKNN(keep_rate=0.5).neighbours
    5
    """

    name = "dpc_knn"
    merges = True

    neighbours: int = 5
    weighting: DPCWeighting = "learned"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self.weighting, DPCWeighting, f"{self.name}: weighting")
        if not is_whole(self.neighbours) or self.neighbours < 1:
            raise ValueError(f"{self.name}: neighbours is a whole number of at least 1, not {self.neighbours!r}.")

    def make_weights(self, layer: int, spec: ViTSpec) -> nn.Module | None:
        return Score(spec.channels) if self.weighting == "learned" and self.stage(layer) else None

    def extra_macs(self, layer: int, num_patches: int, spec: ViTSpec) -> int:
        if self.num_kept(layer, num_patches) == num_patches:
            return 0
        return (num_patches + (self.weighting == "learned")) * num_patches * spec.channels

    def reduce(self, layer: int, tokens: Tokens, num_kept: int) -> Tokens:
        x_BPC = tokens.patches_BNC
        with torch.no_grad():
            groups = density_peaks(x_BPC, num_kept, self.neighbours, to_denser=False)
        weight_BP = self._weigh(layer, x_BPC)
        merged = ops.merge(tokens, groups.centre, groups.member, groups.slot, weight_BP)
        total_BK = portable.add_at(weight_BP.gather(1, groups.centre), groups.slot, weight_BP.gather(1, groups.member))
        return ops.replace_last(merged, merged.patches_BNC * (total_BK / (total_BK + SMALL)).unsqueeze(2))

    def _weigh(self, layer: int, x_BPC: Tensor) -> Tensor:
        """What each patch weighs, in at least fp32: [B, P]."""
        if self.weighting == "equal":
            return torch.ones_like(at_least_fp32(x_BPC[:, :, 0]))
        if not isinstance(self.weights, Score):
            raise ValueError(
                f"{self.name}: block {layer} has no learned score: apply the method with reduce_tokens, which makes "
                "it, or use weighting='equal'."
            )
        return self.weights(x_BPC)


class Score(nn.Module):
    """The weight of a patch in its cluster, which starts at 1."""

    def __init__(self, channels: int):
        super().__init__()
        self.score = nn.Linear(channels, 1)
        nn.init.zeros_(self.score.weight)
        nn.init.zeros_(self.score.bias)

    def forward(self, x_BPC: Tensor) -> Tensor:
        """[B, P, C] to weights [B, P], in at least fp32."""
        return at_least_fp32(without_autocast(self.score, x_BPC.to(self.score.weight.dtype))).squeeze(2).exp()
