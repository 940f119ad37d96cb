"""vid-TLDR: Training Free Token Merging for Light-weight Video Transformer (Choi et al., CVPR 2024).

Paper: https://arxiv.org/abs/2403.13347. Official code: https://github.com/mlvlab/vid-TLDR (MIT; this file is written
from what it computes). In a few early blocks the most similar pairs of patches merge as in ToMe. A patch that merges is
weighted by how much it belongs to the foreground, which is where attention is sharper than on average. Background is
dropped.

    h_i = Σ_j a_ij log a_ij    a: attention of patch i, mean over heads; minus its entropy
    f_i = relu(h_i - mean h) / max(h - mean h)    foreground, from 0 to 1
    x_j = (s_j x_j + Σ f_i s_i x_i) / (s_j + Σ f_i s_i)    over the i that merge into j
    s_j = s_j + Σ f_i s_i    the size, which attention adds as log s

As in the official code: the features after the attention residual are compared, not the keys; a patch with f = 0 is
dropped, and sizes are fractions from then on.
Different: the prefix is never merged; the official code protects no token. Entropies include the keys of the prefix. If
no patch is foreground, the patches that would have merged are dropped, and nothing is divided by 0.
The official code is for video models. How many patches merge in which blocks of an image model is our setting. So is
`prop_attn`: that attention adds the log of the fractional sizes, as in ToMe, is our reading. The oracles of the
official merge do not cover it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..core import ops, portable
from ..core.amount import PerBlock
from ..core.attention import Attention
from ..core.matching import match, match_macs
from ..core.removing import RemovingMethod
from ..core.spec import ViTSpec
from ..core.tokens import Tokens

EARLY = 4  # blocks, at the start


@dataclass(frozen=True, kw_only=True)
class VidTLDR(RemovingMethod):
    """Merge similar patches in the first blocks, weighted by how much they belong to the foreground.

    Args:
        r: patches to remove in each of the layers: one number; a pair (r, inflect), which runs linearly from
            r (1 - inflect) in the first to r (1 + inflect) in the last; or a list, one number for each. No block can
            remove more than half of its patches.
        layers: the blocks that merge, 0-based and increasing; None means the first four.
        clamp: whether a block that is asked for more removes that half; otherwise it is an error.
        prop_attn: whether attention adds log(size) to the logits (our reading).

    Raises:
        ValueError: If no model can take a setting. `reduce_tokens` raises it for the model at hand.

    Source:
        Choi et al., CVPR 2024, https://arxiv.org/abs/2403.13347.

    >>> VidTLDR(r=20)
    VidTLDR(r=20, layers=None, clamp=False, prop_attn=True)
    """

    name = "vid_tldr"
    R = PerBlock("r", "r {:g}", neutral=0, usual=20)
    merges = drops = by_position = True

    r: int | tuple[int, float] | Sequence[int] = 20
    prop_attn: bool = True

    def default_layers(self, spec: ViTSpec) -> tuple[int, ...]:
        return tuple(range(spec.depth))[spec.first_reducible_layer :][:EARLY]

    def extra_macs(self, layer: int, num_patches: int, spec: ViTSpec) -> int:
        if not self.is_active(layer, num_patches):
            return 0
        entropies = num_patches * (num_patches + spec.num_prefix) * spec.attention_channels
        return match_macs(num_patches, spec.channels) + entropies

    def after_attention(self, layer: int, tokens: Tokens, attention: Attention) -> Tokens:
        num_removed = self.num_removed(layer, tokens.num_patches)
        keep_BK, rest_BM, slot_BM = match(tokens.x_BNC, tokens.num_prefix, num_removed)
        if tokens.num_prefix == 0:  # where ToMe's matching does not sort what stays
            half = tokens.num_patches // 2
            keep_BK = torch.cat([portable.ascending(keep_BK[:, :-half]), keep_BK[:, -half:]], dim=1)
        score_BM = foreground(attention, tokens.num_prefix).gather(1, rest_BM)
        entering_BM = (score_BM * ops.patch_sizes(tokens).gather(1, rest_BM)).detach()  # sizes take no gradient
        weight_BN = ops.patch_sizes(tokens).scatter(1, rest_BM, entering_BM)
        return ops.merge(tokens, keep_BK, rest_BM, slot_BM, weight_BN, joins_BM=score_BM > 0, growth_BM=entering_BM)


def foreground(attention: Attention, num_prefix: int) -> Tensor:
    """How much each patch is foreground, 0 for background: [B, N - prefix]."""
    chunks = [_sharpness(rows_BHMN.mean(dim=1)) for rows_BHMN in attention.row_chunks(num_prefix)]
    sharpness_BN = torch.cat(chunks, dim=1)
    tiny = torch.finfo(sharpness_BN.dtype).tiny
    low_B1 = sharpness_BN.amin(dim=1, keepdim=True)
    relative_BN = (sharpness_BN - low_B1) / (sharpness_BN.amax(dim=1, keepdim=True) - low_B1).clamp(min=tiny)
    above_BN = (relative_BN - relative_BN.mean(dim=1, keepdim=True)).clamp(min=0)
    return above_BN / above_BN.amax(dim=1, keepdim=True).clamp(min=tiny)


def _sharpness(paid_BMN: Tensor) -> Tensor:
    """Minus the entropy of each row: [B, M]."""
    return (paid_BMN * paid_BMN.clamp(min=torch.finfo(paid_BMN.dtype).tiny).log()).sum(dim=-1)
