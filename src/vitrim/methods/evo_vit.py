"""Evo-ViT: Slow-Fast Token Evolution for Dynamic Vision Transformer (Xu et al., AAAI 2022).

Paper: https://arxiv.org/abs/2108.01390. Official code: https://github.com/YifanXu74/Evo-ViT (MIT; this file is written
from the paper and from what the code computes). No patch is removed for good. Before a stage the informative patches
are selected; the others, the placeholders, wait, and are back before the next stage and behind the last block.

    g_i = a_i in the block before the first stage, then (g_i + a_i) / 2 for the patches that were there
    a: class attention, mean over heads; selected: the int(P rate) patches of the largest g
    x_rep = Σ g_i x_i / Σ g_i    over the placeholders: a token that goes through the stage with the others
    x_i = x_i + (x_rep after the stage - x_rep before it)    the fast update of each placeholder

The paper's DeiT has stages at blocks 4 and 8 of 12 with half of the patches; for its first 200 epochs it selects before
every block from 4 on (`layer_wise=True`). The fast update is in the paper and in the released LeViT. The released DeiT
lets placeholders wait without it, and without a representative token: `fast_update=False`.
The released DeiT reads its answer from the mean of all patches, as timm's models do with global_pool="avg"; there it
trains a second head on the class token, half of the loss each. Here the model's own head answers, on either.
Different: patches are in their own order again when they are back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from ..core import ops, schedule
from ..core.attention import Attention
from ..core.choices import check_choice
from ..core.schedule import RATE_STEPS
from ..core.scored import Scorer, check_scorer, patch_scores, score_macs
from ..core.spec import ViTSpec
from ..core.staged import StagedMethod
from ..core.tokens import Tokens

OLD = 0.5  # what the global attention keeps of its former value


@dataclass(frozen=True, kw_only=True)
class EvoViT(StagedMethod):
    """Carry the informative patches through a stage, update the others as one, and bring them back.

    Args:
        keep_rate: share of all patches that a stage carries, one number or one per stage; above 0, at most 1.
        layers: the first block of each stage, 0-based and increasing, not 0; None means a third of the depth apart (4
            and 8 of 12).
        patches: patches of an image; None means the model's. Images of another size take the counts in proportion.
        fast_update: whether a representative token of the others goes along, and updates them (as in the paper).
        layer_wise: whether patches are selected before every block from the first stage on, as early in training.
        scorer: cls, received or norm, see `patch_scores`; a model without a class token needs one of the last two.

    Raises:
        ValueError: If no model can take a setting. `reduce_tokens` raises it for the model at hand.

    Source:
        Xu et al., AAAI 2022, https://arxiv.org/abs/2108.01390.

    >>> EvoViT(fast_update=False).keep_rate
    0.5
    """

    name = "evo_vit"
    first_layer = 1
    brings_back = True

    keep_rate: float | Sequence[float] = 0.5
    fast_update: bool = True
    layer_wise: bool = False
    scorer: Scorer = "cls"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self.scorer, Scorer, f"{self.name}: scorer")

    @property
    def merges(self) -> bool:
        return self.fast_update

    @property
    def fuses(self) -> bool:
        return self.fast_update

    def build(self, spec: ViTSpec) -> EvoViT:
        check_scorer(self, self.scorer, spec)
        thirds = tuple(sorted({max(1, spec.depth * i // 3) for i in (1, 2)} & set(range(spec.depth))))
        layers = schedule.check_layers(thirds if self.layers is None else self.layers, spec.depth, self.name)
        if self.layer_wise:
            stage_of = [sum(first <= layer for first in layers) - 1 for layer in range(layers[0], spec.depth)]
            return replace(
                self, **self._for_each(stage_of, layers), layers=tuple(range(layers[0], spec.depth)), layer_wise=False
            ).build(spec)
        return super(EvoViT, replace(self, layers=layers)).build(spec)

    def _for_each(self, stage_of: list[int], layers: Sequence[int]) -> dict[str, Any]:
        """The settings of a selection before every block, from those of the stages."""
        rates = schedule.check_rates(self.keep_rate, len(layers), self.name) if self.r is None else ()
        removed = () if self.r is None else schedule.check_each(self.r, len(layers), self.name)
        each = {"keep_rate": tuple(rates[stage] for stage in stage_of)} if rates else {}
        more = {"r": tuple(removed[stage] for stage in stage_of)} if removed else {}
        return {**each, **more}

    def stages(self) -> tuple[int, ...]:
        assert self.patches is not None, "build() comes first"
        if isinstance(self.r, tuple):
            return (self.patches, *(max(1, self.patches - removed) for removed in self.r))
        assert isinstance(self.keep_rate, tuple), "build() comes first"
        shares = (self.patches * round(rate * RATE_STEPS) // RATE_STEPS or 1 for rate in self.keep_rate)
        return (self.patches, *shares)

    def num_attentive(self, layer: int, num_patches: int) -> int:
        """Informative patches of block `layer`, without the representative token."""
        stage = self.stage(layer)
        if stage is None:
            return num_patches
        there = num_patches - self._represented(stage[0])
        return (there * stage[1] // stage[0]) or 1

    def num_kept(self, layer: int, num_patches: int) -> int:
        stage = self.stage(layer)
        return self.num_attentive(layer, num_patches) + (0 if stage is None else self._represented(stage[1]))

    def _represented(self, num_informative: int) -> int:
        """1 if a representative token goes with that many informative patches, else 0."""
        assert self.patches is not None, "build() comes first"
        return int(self.fast_update and num_informative < self.patches)

    def is_active(self, layer: int, num_patches: int) -> bool:
        assert isinstance(self.layers, tuple) and self.patches is not None, "build() comes first"
        parts = min(self.stages()) < self.patches
        return parts and self.layers[0] - 1 <= layer < self.layers[-1]

    def extra_macs(self, layer: int, num_patches: int, spec: ViTSpec) -> int:
        num_kept, stage = self.num_kept(layer, num_patches), self.stage(layer)
        represents = stage is not None and self._represented(stage[1])
        gathering = self.stages()[0] * spec.channels if represents else 0
        return gathering + (score_macs(self.scorer, num_kept, spec) if self.is_active(layer, num_patches) else 0)

    def before_block(self, layer: int, tokens: Tokens) -> Tokens:
        stage = self.stage(layer)
        if stage is None or not tokens.memory:
            return tokens
        num_kept = self.num_attentive(layer, tokens.num_patches)
        tokens = together(tokens)
        score_BP = tokens.memory[0]
        if num_kept >= tokens.num_patches:
            return tokens
        keep_BK, rest_BM = ops.rank(score_BP, num_kept)
        full_BPC = tokens.patches_BNC
        if not self.fast_update:
            return ops.keep(tokens, keep_BK)._replace(memory=(score_BP, full_BPC, keep_BK))
        rest_B1 = score_BP.gather(1, rest_BM).sum(dim=1, keepdim=True).clamp(min=torch.finfo(score_BP.dtype).tiny)
        parted = ops.fuse(tokens, keep_BK, score_BP / rest_B1)
        return parted._replace(memory=(score_BP, full_BPC, keep_BK, parted.x_BNC[:, -1:]))

    def after_attention(self, layer: int, tokens: Tokens, attention: Attention) -> Tokens:
        assert isinstance(self.layers, tuple), "build() comes first"
        new_BN = patch_scores(self.scorer, tokens, attention).detach()
        if not tokens.memory:
            return tokens._replace(memory=(new_BN,))
        score_BP = tokens.memory[0]
        if len(tokens.memory) == 1:
            return tokens._replace(memory=(OLD * score_BP + (1 - OLD) * new_BN,))
        keep_BK = tokens.memory[2]
        blend_BK = OLD * score_BP.gather(1, keep_BK) + (1 - OLD) * new_BN[:, : keep_BK.shape[1]]
        return tokens._replace(memory=(score_BP.scatter(1, keep_BK, blend_BK), *tokens.memory[1:]))

    def finish(self, tokens: Tokens) -> Tokens:
        return together(tokens)._replace(memory=())


def together(tokens: Tokens) -> Tokens:
    """All patches in their own order, placeholders updated. Only the scores stay in memory."""
    if len(tokens.memory) < 2:
        return tokens
    score_BP, full_BPC, keep_BK = tokens.memory[:3]
    rows_BNC = tokens.patches_BNC
    if len(tokens.memory) > 3:
        full_BPC = full_BPC + (rows_BNC[:, -1:] - tokens.memory[3])
    rows_BKC = rows_BNC[:, : keep_BK.shape[1]].to(full_BPC.dtype)
    full_BPC = full_BPC.scatter(1, keep_BK.unsqueeze(2).expand_as(rows_BKC), rows_BKC)
    x_BNC = torch.cat([tokens.x_BNC[:, : tokens.num_prefix], full_BPC], dim=1)
    return tokens._replace(x_BNC=x_BNC, position_BK=None, source_BP=None, weight_BP=None, memory=(score_BP,))
