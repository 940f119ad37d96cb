"""The method: settings, the metric, and what one block does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ...core import ops
from ...core.amount import PerBlock
from ...core.attention import Attention
from ...core.cost import check_masks
from ...core.matching import match, match_macs
from ...core.precision import at_least_fp32, matmul_fp32
from ...core.removing import RemovingMethod
from ...core.schedule import is_whole
from ...core.spec import ViTSpec
from ...core.tokens import Tokens
from .soft import soft_step

WIDE = 1024  # channels, from which on the metric has twice a head's


@dataclass(frozen=True, kw_only=True)
class DTEM(RemovingMethod):
    """Merge the r most similar pairs of patches in every block, by a learned metric.

    Args:
        r: patches to remove per block: one number; a pair (r, inflect), which runs linearly from r (1 - inflect) in the
            first block to r (1 + inflect) in the last; or a list, one number per block, padded with 0. No block can
            remove more than half of its patches.
        layers: the blocks that merge, 0-based and increasing; None means every block. A list of r then has a number for
            each of them.
        clamp: whether a block that is asked for more merges that half; otherwise it is an error.
        metric_channels: numbers that the metric has for each patch; None means a head's channels, twice that in models
            of 1024 channels or more.
        prop_attn: whether attention adds log(size) to the logits.
        learns: whether training learns the metric, by soft grouping; otherwise patches merge as at inference.

    Raises:
        ValueError: for a setting that no model could take. Where it does not fit a model, `reduce_tokens` says so.

    Source:
        Lee and Hong, NeurIPS 2024, https://arxiv.org/abs/2412.10569.

    >>> DTEM(r=13)
    DTEM(r=13, layers=None, clamp=False, metric_channels=None, prop_attn=True, learns=False)
    """

    name = "dtem"
    merges = by_position = needs_training = True
    R = PerBlock("r", "r {:g}", neutral=0, usual=13)

    metric_channels: int | None = None
    prop_attn: bool = True
    learns: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.metric_channels is not None and not (is_whole(self.metric_channels) and self.metric_channels >= 1):
            raise ValueError(
                f"{self.name}: metric_channels is a whole number of at least 1, or None, not {self.metric_channels!r}."
            )

    def build(self, spec: ViTSpec) -> DTEM:
        if self.learns:
            check_masks(self, spec)
            if spec.pools_patches:
                raise ValueError(
                    f"{self.name}: soft merging leaves patches that count in part, and the head of {spec.name} pools "
                    "all alike: learns needs a model whose head reads the class token."
                )
        return super().build(spec)

    def settled(self, weights: Sequence[nn.Module | None]) -> DTEM:
        return replace(self, learns=False) if self.learns else self

    def _width(self, spec: ViTSpec) -> int:
        return self.metric_channels or spec.head_channels * (2 if spec.channels >= WIDE else 1)

    def make_weights(self, layer: int, spec: ViTSpec) -> nn.Module | None:
        if layer not in self.layers_of(spec):
            return None
        weights, width = nn.Module(), self._width(spec)
        metric = nn.Linear(spec.channels, width)
        with torch.no_grad():  # every width-th channel makes up one number
            metric.weight.copy_((torch.arange(spec.channels) % width == torch.arange(width).unsqueeze(1)).float())
            metric.bias.zero_()
        weights.add_module("metric", metric)
        return weights.requires_grad_(self.learns)

    def extra_macs(self, layer: int, num_patches: int, spec: ViTSpec) -> int:
        if not self.is_active(layer, num_patches):
            return 0
        width = self._width(spec)
        return (num_patches + spec.num_prefix) * spec.channels * width + match_macs(num_patches, width)

    def after_attention(self, layer: int, tokens: Tokens, attention: Attention) -> Tokens:
        if self.learns and self.weights is not None and self.weights.training:
            return self._learn(layer, tokens, attention)
        num_removed = self.num_removed(layer, tokens.num_patches)
        keep_BK, rest_BM, slot_BM = match(self._metric(layer, attention), tokens.num_prefix, num_removed)
        return ops.merge(tokens, keep_BK, rest_BM, slot_BM, None)

    def _learn(self, layer: int, tokens: Tokens, attention: Attention) -> Tokens:
        """One block in training. All patches are there, the first `active` of them as inference has them."""
        active = tokens.num_patches
        for before in range(layer):
            active = self.num_kept(before, active)
        metric_BND = self._metric(layer, attention)
        return soft_step(tokens, metric_BND[:, tokens.num_prefix :], active, self.num_removed(layer, active))

    def _metric(self, layer: int, attention: Attention) -> Tensor:
        if self.weights is None or attention.input_BNC is None:
            raise ValueError(
                f"{self.name}: block {layer} holds no metric: apply the method with reduce_tokens, which makes it; a "
                "method that is swapped in learns nothing new."
            )
        metric = self.weights.get_submodule("metric")
        assert isinstance(metric, nn.Linear)
        return matmul_fp32(attention.input_BNC.detach(), metric.weight.t()) + at_least_fp32(metric.bias)
