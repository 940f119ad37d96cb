"""Baselines that a method has to beat: patches kept at random. (Top-k and feature norm are settings of EViT.)"""

from __future__ import annotations

from dataclasses import dataclass

from ..core import ops
from ..core.attention import Attention
from ..core.method import KeepRateMethod
from ..core.seeds import check_seed, pseudo_random
from ..core.spec import ViTSpec
from ..core.tokens import Tokens


@dataclass(frozen=True, kw_only=True)
class Random(KeepRateMethod):
    """Keep patches at random, drop the rest; the same positions for every image, so that batches agree.

    seed: chooses the positions.
    """

    name = "random"

    seed: int = 0

    @property
    def by_position(self) -> bool:
        return True

    def build(self, spec: ViTSpec) -> Random:
        check_seed(self, self.seed)
        return super().build(spec)

    def after_attention(self, layer: int, tokens: Tokens, attention: Attention) -> Tokens:
        score_N = pseudo_random(tokens.num_patches, self.seed, layer, tokens.x_BNC.device)
        score_BN = score_N.expand(tokens.x_BNC.shape[0], -1)
        keep_BK, _ = ops.rank(score_BN, self.num_attentive(layer, tokens.num_patches))
        return ops.keep(tokens, keep_BK)
