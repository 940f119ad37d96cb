"""TM: the token mergence of Multi-Scale And Token Mergence: Make Your ViT More Efficient (Bian et al., 2023).

Paper: https://arxiv.org/abs/2306.04897. No official code is public.
The patches to which the class token attends most are crucial. Each other patch merges into the most similar crucial
one, as a mean weighted by importance (eq. 4). It works without training.

    c(i) = argmax_j similarity(x_i, x_j)    of the crucial patches j, for each other patch i
    x_j = (a_j x_j + Σ a_i x_i) / (a_j + Σ a_i)    over the i with c(i) = j; a: importance (eq. 4)

Our choices where the paper is silent: similarity compares features after the attention residual. The class token never
merges. The attention similarity is the attention that a patch pays to each crucial one, mean over heads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from ..core import ops, portable
from ..core.attention import Attention
from ..core.choices import check_choice
from ..core.matching import cosines, squared_distances
from ..core.precision import at_least_fp32
from ..core.schedule import check_seed
from ..core.scored import ScoredMethod, patch_scores
from ..core.seeds import pseudo_random
from ..core.spec import ViTSpec
from ..core.tokens import Tokens

Similarity = Literal["cosine", "l1", "l2", "attention", "random"]


@dataclass(frozen=True, kw_only=True)
class TokenMergence(ScoredMethod):
    """Merge each unimportant patch into the most similar important one.

    Args:
        keep_rate: share of the patches that enter a reducing block, one number or one per layer; above 0, at most 1.
        layers: reducing blocks, 0-based and increasing; None means a quarter of the depth apart (3, 6, 9 of 12).
        r: patches that go in each of these blocks, one number or one per layer, in place of keep_rate.
        scorer: cls, received, norm or shift, see `patch_scores`. cls needs a class token.
        similarity: cosine, l1, l2, attention or random (Table 4 of the paper).
        seed: seed of the random similarity, which depends on positions only.

    Raises:
        ValueError: If no model can take a setting. `reduce_tokens` raises it for the model at hand.

    Source:
        Bian et al., 2023, https://arxiv.org/abs/2306.04897, eq. 4.
    """

    name = "token_mergence"
    merges = True

    similarity: Similarity = "cosine"
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self.similarity, Similarity, f"{self.name}: similarity")
        check_seed(self.seed, self.name)

    @property
    def by_position(self) -> bool:
        return self.similarity == "random"

    def extra_macs(self, layer: int, num_patches: int, spec: ViTSpec) -> int:
        num_keep = self.num_attentive(layer, num_patches)
        if num_keep == num_patches:
            return 0
        products = {"cosine": spec.channels, "l2": spec.channels, "attention": spec.attention_channels}
        merging = (num_patches - num_keep) * num_keep * products.get(self.similarity, 0)
        return self.score_macs(num_patches, spec) + merging

    def after_attention(self, layer: int, tokens: Tokens, attention: Attention) -> Tokens:
        score_BN = patch_scores(self.scorer, tokens, attention)
        keep_BK, rest_BM = ops.rank(score_BN, self.num_attentive(layer, tokens.num_patches))
        slot_BM = self._similarity(layer, tokens, attention, keep_BK, rest_BM).argmax(dim=-1)
        return ops.merge(tokens, keep_BK, rest_BM, slot_BM, score_BN)

    def _similarity(self, layer: int, tokens: Tokens, attention: Attention, keep_BK: Tensor, rest_BM: Tensor) -> Tensor:
        """Similarity of each patch in rest_BM to each kept one: [B, M, K], on any scale per row."""
        shape = (keep_BK.shape[0], rest_BM.shape[1], keep_BK.shape[1])
        if self.similarity == "random":
            values = pseudo_random(shape[1] * shape[2], self.seed, layer, keep_BK.device)
            return values.view(1, *shape[1:]).expand(shape)
        if self.similarity == "attention":
            return _attention_paid(attention, rest_BM + tokens.num_prefix, keep_BK + tokens.num_prefix)
        kept = ops.take(tokens.x_BNC, keep_BK + tokens.num_prefix)
        rest = ops.take(tokens.x_BNC, rest_BM + tokens.num_prefix)
        if self.similarity == "l1":
            return -portable.taxicab(at_least_fp32(rest), at_least_fp32(kept))
        if self.similarity == "l2":
            return -squared_distances(rest, kept)
        return cosines(rest, kept)


def _attention_paid(attention: Attention, query_BM: Tensor, key_BK: Tensor) -> Tensor:
    """Attention that the tokens query_BM pay to the tokens key_BK, mean over heads: [B, M, K]."""
    channels = attention.q_BHND.shape[-1]
    query = attention.q_BHND.gather(2, query_BM[:, None, :, None].expand(-1, attention.q_BHND.shape[1], -1, channels))
    paid_BHMN = attention._replace(q_BHND=query).rows(0, query_BM.shape[1])
    return paid_BHMN.mean(dim=1).gather(2, key_BK.unsqueeze(1).expand(-1, query_BM.shape[1], -1))
