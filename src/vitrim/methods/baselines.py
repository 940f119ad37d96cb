"""The random baseline. Two others, top-k and feature norm, are settings of EViT."""

from __future__ import annotations

from dataclasses import dataclass

from ..core import ops
from ..core.attention import Attention
from ..core.method import KeepRateMethod
from ..core.schedule import check_seed
from ..core.seeds import pseudo_random
from ..core.tokens import Tokens


@dataclass(frozen=True, kw_only=True)
class Random(KeepRateMethod):
    """Keep patches at random and drop the others. The positions are the same for every image.

    Args:
        keep_rate: share of the patches that enter a reducing block, one number or one per layer; above 0, at most 1.
        layers: reducing blocks, 0-based and increasing; None means a quarter of the depth apart (3, 6, 9 of 12).
        r: patches that go in each of these blocks, one number or one per layer, in place of keep_rate.
        seed: seed of the positions.

    Raises:
        ValueError: If no model can take a setting. `reduce_tokens` raises it for the model at hand.
    """

    name = "random"
    by_position = True

    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_seed(self.seed, self.name)

    def after_attention(self, layer: int, tokens: Tokens, attention: Attention) -> Tokens:
        score_N = pseudo_random(tokens.num_patches, self.seed, layer, tokens.x_BNC.device)
        score_BN = score_N.expand(tokens.x_BNC.shape[0], -1)
        keep_BK, _ = ops.rank(score_BN, self.num_attentive(layer, tokens.num_patches))
        return ops.keep(tokens, keep_BK)
