"""ToMe, Token Merging: Your ViT But Faster (Bolya et al., ICLR 2023).

Paper: https://arxiv.org/abs/2210.09461. Official code: https://github.com/facebookresearch/ToMe (CC-BY-NC 4.0; this
file is written from the paper). In every block the r most similar pairs of patches merge, between two halves of
the sequence (section 3.2). Attention weighs each token by the patches that it stands for (section 3.3, eq. 1).

    A = softmax(Q Kᵀ / √d + log s)    s: how many patches each key stands for (eq. 1)
    x_j = (s_j x_j + Σ s_i x_i) / (s_j + Σ s_i)    over the i that merge into j

As in the official code: similarity compares keys averaged over heads. The unmerged tokens of the first half come before
the second half, which shuffles the next split. The prefix is never merged.
Different: r above half of a block's patches is an error unless clamp=True, while the official code silently merges
half. LayerScale, query-key norm, registers and gradient checkpointing work.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..core import ops
from ..core.amount import PerBlock
from ..core.attention import Attention
from ..core.matching import match, match_macs
from ..core.removing import RemovingMethod
from ..core.spec import ViTSpec
from ..core.tokens import Tokens


@dataclass(frozen=True, kw_only=True)
class ToMe(RemovingMethod):
    """Merge the r most similar pairs of patches in every block.

    Args:
        r: patches to remove per block. One number; or a pair (r, inflect), which runs linearly from r (1 - inflect) in
            the first block to r (1 + inflect) in the last, so (13, -1.0) removes more early on; or a list with one
            number per block, padded with 0. No block can remove more than half of its patches.
        layers: the blocks that merge, 0-based and increasing; None means every block. A list of r then has one number
            per layer. r=47 with layers=(3, 6, 9) merges in three large steps.
        clamp: whether a larger r merges that half, as in the official code, or is an error.
        prop_attn: whether attention adds log(size) to the logits (proportional attention). The paper turns it off for
            MAE without training.

    Raises:
        ValueError: If no model can take a setting. `reduce_tokens` raises it for the model at hand.

    Source:
        Bolya et al., ICLR 2023, https://arxiv.org/abs/2210.09461, sections 3.2 and 3.3.

    >>> ToMe(r=13)
    ToMe(r=13, layers=None, clamp=False, prop_attn=True)
    """

    name = "tome"
    R = PerBlock("r", "r {:g}", neutral=0, usual=13)
    merges = by_position = True

    prop_attn: bool = True

    def extra_macs(self, layer: int, num_patches: int, spec: ViTSpec) -> int:
        return match_macs(num_patches, spec.head_channels) if self.is_active(layer, num_patches) else 0

    def after_attention(self, layer: int, tokens: Tokens, attention: Attention) -> Tokens:
        num_removed = self.num_removed(layer, tokens.num_patches)
        keep_BK, rest_BM, slot_BM = match(attention.mean_key(), tokens.num_prefix, num_removed)
        return ops.merge(tokens, keep_BK, rest_BM, slot_BM, None)
