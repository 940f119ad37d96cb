"""PiToMe: Accelerating Transformers with Spectrum-Preserving Token Merging (Tran et al., NeurIPS 2024).

Paper: https://arxiv.org/abs/2405.16148. Official code: https://github.com/hchautran/PiToMe (CC-BY-NC 4.0; this file is
written from the paper and from what the code computes). In every block the patches that many others resemble may merge;
those that stand alone are protected.

    E_i = mean over j of ELU(cos(k_i, k_j) - m)    the energy of patch i; m: the margin, which falls from block to block
    r = floor(N - ratio N)    patches that go
    split: all patches, ranked by energy; an even rank proposes to its most similar odd rank; the r best proposals merge
    protected: the same among the 2r patches of the highest energy, all of whose even ranks merge

As in the official code: keys k averaged over heads; the mean runs over all patches, itself too; means weighted by size;
split matching in the first half of the blocks and protected matching in the second, or the other way round as its MAE
models have it; protected patches come first, then even ranks that merge with none, then the odd ranks.
Different: attention adds log(size) to the logits unless prop_attn=False; in the released image models the sizes never
reach the attention. Energies are in at least fp32, and equal ones rank by index, since a near tie swaps even and odd
for all ranks below it. Counts are exact where a float product is not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core import ops, portable, schedule
from ..core.amount import Share
from ..core.attention import Attention
from ..core.choices import check_choice
from ..core.matching import cosines
from ..core.method import Method
from ..core.precision import at_least_fp32
from ..core.spec import ViTSpec
from ..core.tokens import Tokens

Matching = Literal["split_first", "protected_first", "split", "protected"]

CHUNK = 256  # patches that are compared with all others at once


@dataclass(frozen=True, kw_only=True)
class PiToMe(Method):
    """Merge pairs among the patches that many others resemble, in every block; protect those that stand alone.

    Args:
        ratio: share of the patches that each block keeps, one number or one per layer; from 0.5 to 1.
        layers: the blocks that merge, 0-based and increasing; None means every block.
        margin: how similar patches must be to raise each other's energy: in the first block, from where it falls in
            equal steps to 0 behind the last; or a list, one number per block of the model.
        matching: split_first is split matching in the first half of the blocks and protected matching in the second
            (DeiT), protected_first the other way round (MAE); split or protected, the same in all.
        prop_attn: whether attention adds log(size) to the logits; False as released.

    Raises:
        ValueError: If no model can take a setting. `reduce_tokens` raises it for the model at hand.

    Source:
        Tran et al., NeurIPS 2024, https://arxiv.org/abs/2405.16148.

    >>> PiToMe(ratio=0.9).matching
    'split_first'
    """

    name = "pitome"
    merges = True
    amount = Share("ratio", "ratio {:g}", neutral=1.0, usual=0.9)

    ratio: float | Sequence[float] = 0.9
    layers: Sequence[int] | None = None
    margin: float | Sequence[float] = 0.75
    matching: Matching = "split_first"
    prop_attn: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        schedule.check_reducing(self.layers, self.name)
        if any(share < 0.5 for share in schedule.check_shares(self.ratio, self.name, "ratio")):
            raise ValueError(f"{self.name}: a ratio is at least 0.5, since patches merge in pairs, not {self.ratio!r}.")
        check_choice(self.matching, Matching, f"{self.name}: matching")
        margins = self.margin if isinstance(self.margin, Sequence) else (self.margin,)
        if isinstance(self.margin, str) or not all(schedule.is_number(each) and -1 <= each <= 1 for each in margins):
            raise ValueError(f"{self.name}: a margin is a number from -1 to 1, as cosines are, not {self.margin!r}.")

    def build(self, spec: ViTSpec) -> PiToMe:
        layers = tuple(range(spec.depth)) if self.layers is None else self.layers
        layers = schedule.check_layers(layers, spec.depth, self.name)
        first = self.margin
        margins = (
            tuple(first)
            if isinstance(first, Sequence)
            else tuple(first - first * layer / spec.depth for layer in range(spec.depth))
        )
        if len(margins) != spec.depth:
            raise ValueError(f"{self.name}: margin needs one number for each of {spec.depth} blocks, not {margins}.")
        ratios = schedule.check_rates(self.ratio, len(layers), self.name, "ratio")
        return replace(self, layers=layers, ratio=ratios, margin=margins)

    def reducing_layers(self, spec: ViTSpec) -> tuple[int, ...]:
        assert isinstance(self.layers, tuple) and isinstance(self.ratio, tuple), "build() comes first"
        return tuple(layer for layer, ratio in zip(self.layers, self.ratio, strict=True) if ratio < 1)

    def num_kept(self, layer: int, num_patches: int) -> int:
        assert isinstance(self.layers, tuple) and isinstance(self.ratio, tuple), "build() comes first"
        if layer not in self.layers:
            return num_patches
        return schedule.ceil_share(self.ratio[self.layers.index(layer)], num_patches)

    def is_active(self, layer: int, num_patches: int) -> bool:
        return self.num_kept(layer, num_patches) < num_patches

    def extra_macs(self, layer: int, num_patches: int, spec: ViTSpec) -> int:
        removed = num_patches - self.num_kept(layer, num_patches)
        if removed == 0:
            return 0
        taking_part = 2 * removed if self.protects(layer) else num_patches
        pairs = (taking_part - taking_part // 2) * (taking_part // 2)
        return (num_patches**2 + pairs) * spec.head_channels

    def protects(self, layer: int) -> bool:
        """Whether block `layer` matches only the patches of the highest energy."""
        assert isinstance(self.margin, tuple), "build() comes first"
        if self.matching in ("split", "protected"):
            return self.matching == "protected"
        return (layer < len(self.margin) // 2) == (self.matching == "protected_first")

    def after_attention(self, layer: int, tokens: Tokens, attention: Attention) -> Tokens:
        assert isinstance(self.margin, tuple), "build() comes first"
        removed = tokens.num_patches - self.num_kept(layer, tokens.num_patches)
        key_BND = attention.mean_key()[:, tokens.num_prefix :]
        rank_BN = portable.order(energies(key_BND, self.margin[layer]))
        return ops.merge(tokens, *pairs(key_BND, rank_BN, removed, protects=self.protects(layer)), None)


def energies(key_BND: Tensor, margin: float) -> Tensor:
    """How many others each patch resembles, and how much: [B, N], in at least fp32."""
    chunks = torch.split(key_BND, CHUNK, dim=1)
    return torch.cat([F.elu(cosines(chunk, key_BND) - margin).mean(dim=-1) for chunk in chunks], dim=1)


def pairs(key_BND: Tensor, rank_BN: Tensor, removed: int, *, protects: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Which patches stay, which join others, and at which place among those that stay; as `ops.merge` takes them.

    rank_BN: patches in the order of falling energy.
    """
    protected_BX = rank_BN[:, 2 * removed :] if protects else rank_BN[:, :0]
    matched_BX = rank_BN[:, : 2 * removed] if protects else rank_BN
    a_BX, b_BX = matched_BX[:, ::2], matched_BX[:, 1::2]
    wide_BND = at_least_fp32(key_BND)
    similarity_BX, partner_BX = cosines(ops.take(wide_BND, a_BX), ops.take(wide_BND, b_BX)).max(dim=-1)
    order_BX = portable.order(similarity_BX)
    taken_BM, left_BX = order_BX[:, :removed], order_BX[:, removed:]
    kept_BX = torch.cat([protected_BX, a_BX.gather(1, left_BX)], dim=1)
    slot_BM = partner_BX.gather(1, taken_BM) + kept_BX.shape[1]
    return torch.cat([kept_BX, b_BX], dim=1), a_BX.gather(1, taken_BM), slot_BM
