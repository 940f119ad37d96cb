"""GTP-ViT: Efficient Vision Transformers via Graph-based Token Propagation (Xu et al., WACV 2024).

Paper: https://arxiv.org/abs/2311.03035. Official code: https://github.com/Ackesnal/GTP-ViT (Apache-2.0; this file is
written from what it computes). In every block the least important patches go, and each hands a part of its features to
the patches that it is connected with in a graph, which is made once, of the embedded patches.

    G = D^(-1/2) A D^(-1/2)    A_ij = 1 where j is a neighbour of i; D: how many neighbours each has
    score_i = max over heads of a_ii · max over heads of Σ_j a_ji    own attention, and attention received
    x_kept = x_kept + α G x_gone,    s_kept = s_kept + α G s_gone    the size, which attention adds as log s

As in the official code: rows and columns of patches that are gone are cut out of the graph, and nothing is normalised
again; sizes are no weights of the features; with density below 1, each head's smallest attention entries are put to 0
after the softmax, in all blocks, and what is left is not normalised again.
Different: patches of equal score go by their place, the later ones first, where the official code leaves it to an
unstable sort. The default graph is the paper's, of neighbours by place and by resemblance ("mixed"). With it the paper
has DeiT-B off the shelf at 81.46 % for r = 8 (alpha 0.1, density 0.6), 81.04 % for 11 and 80.11 % for 14 (0.3 and 0.8).
The official command makes no graph unless one is named. To know a patch's neighbours by place takes the rows of the
image. They are taken to be as many as the columns; where the patches form no square, the default is "semantic".
A trace calls the patches that go dropped: what they hand on flows into several tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..core import ops
from ..core.amount import PerBlock
from ..core.attention import Attention
from ..core.choices import check_choice
from ..core.matching import cosines
from ..core.precision import matmul_without_autocast
from ..core.removing import RemovingMethod
from ..core.schedule import is_number, is_whole
from ..core.spec import ViTSpec
from ..core.tokens import Tokens

Graph = Literal["semantic", "spatial", "mixed"]
GTPScorer = Literal["mixed", "cls"]


@dataclass(frozen=True, kw_only=True)
class GTP(RemovingMethod):
    """Drop the least important patches in every block, and hand their features on along a graph.

    Args:
        r: patches to remove per block: one number; a pair (r, inflect), which runs linearly from r (1 - inflect) in the
            first block to r (1 + inflect) in the last; or a list, one number per block, padded with 0.
        layers: the blocks that remove, 0-based and increasing; None means every block.
        clamp: whether a block that is asked for more leaves one patch; otherwise it is an error.
        graph: which patches are neighbours: semantic (those whose embeddings resemble it most), spatial (the eight
            around it) or mixed (both, as in the paper). The last two need images of as many rows as columns. None is
            mixed for such images, and semantic for others.
        neighbours: how many patches resemble one most.
        alpha: how much of a patch that goes flows along each edge, 0 to 1; 0 drops it.
        density: share of each head's attention entries that stay, above 0, at most 1. Below 1 the whole attention is
            formed, which takes longer.
        score: what ranks patches: mixed (own attention times attention received, as in the paper) or cls (attention of
            the class token).
        prop_attn: whether sizes are counted and attention adds log(size) to the logits.

    Raises:
        ValueError: for a setting that no model could take. Where it does not fit a model, `reduce_tokens` says so.

    Source:
        Xu et al., WACV 2024, https://arxiv.org/abs/2311.03035.

    >>> GTP(r=8, graph="semantic").graph
    'semantic'
    """

    name = "gtp"
    R = PerBlock("r", "r {:g}", neutral=0, usual=8)

    r: int | tuple[int, float] | Sequence[int] = 8
    graph: Graph | None = None
    neighbours: int = 8
    alpha: float = 0.1
    density: float = 1.0
    score: GTPScorer = "mixed"
    prop_attn: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.graph is not None:
            check_choice(self.graph, Graph, f"{self.name}: graph")
        check_choice(self.score, GTPScorer, f"{self.name}: score")
        if not is_whole(self.neighbours) or self.neighbours < 1:
            raise ValueError(f"{self.name}: neighbours is a whole number of at least 1, not {self.neighbours!r}.")
        if not is_number(self.alpha) or not 0 <= self.alpha <= 1:
            raise ValueError(f"{self.name}: alpha is a number from 0 to 1, not {self.alpha!r}.")
        if not is_number(self.density) or not 0 < self.density <= 1:
            raise ValueError(f"{self.name}: density is a number above 0 and at most 1, not {self.density!r}.")

    @property
    def propagates(self) -> bool:
        return self.alpha > 0

    @property
    def by_position(self) -> bool:
        return self.graph != "semantic"

    @property
    def attention_density(self) -> float:
        return self.density if self.removes else 1.0

    @property
    def removes(self) -> bool:
        """Whether this built method removes patches in any block."""
        return any(self.r) if isinstance(self.r, Sequence) else self.r > 0

    def build(self, spec: ViTSpec) -> GTP:
        if self.score == "cls" and not spec.has_cls:
            raise ValueError(f"{self.name}: score='cls' needs a class token, and {spec.name} has none: take 'mixed'.")
        self.graph_of(spec.num_patches)
        return super().build(spec)

    def graph_of(self, num_patches: int) -> Graph:
        """Which patches are neighbours in an image of so many. ValueError if their places are wanted and not known."""
        square = math.isqrt(num_patches) ** 2 == num_patches
        if self.graph in ("spatial", "mixed") and not square:
            raise ValueError(
                f"{self.name}: graph={self.graph!r} needs as many rows of patches as columns, and {num_patches} "
                "patches are no square: take graph='semantic'."
            )
        return self.graph or ("mixed" if square else "semantic")

    def most_removed(self, num_patches: int) -> int:
        return num_patches - 1

    def extra_macs(self, layer: int, num_patches: int, spec: ViTSpec) -> int:
        removed = self.num_removed(layer, num_patches)
        scoring = (num_patches + spec.num_prefix) ** 2 if self.score == "mixed" else num_patches + spec.num_prefix
        first = self.graph != "spatial" and self.removes and layer == spec.first_reducible_layer
        graph = num_patches**2 * spec.channels if first else 0
        if removed == 0:
            return graph
        handing_on = removed * (num_patches - removed) * spec.channels if self.alpha else 0
        return graph + scoring * spec.attention_channels + handing_on

    def before_block(self, layer: int, tokens: Tokens) -> Tokens:
        if tokens.memory or not self.removes or self.alpha == 0:
            return tokens
        B, P = tokens.x_BNC.shape[0], tokens.num_patches
        place_BP = torch.arange(P, device=tokens.x_BNC.device).expand(B, -1)
        return tokens._replace(memory=(self._graph(tokens.patches_BNC.detach()), place_BP))

    def after_attention(self, layer: int, tokens: Tokens, attention: Attention) -> Tokens:
        score_BN = attention.cls_row().mean(dim=1) if self.score == "cls" else own_and_received(attention)
        num_kept = self.num_kept(layer, tokens.num_patches)
        keep_BK, rest_BM = ops.rank(score_BN[:, tokens.num_prefix :], num_kept)
        if self.alpha == 0:
            return ops.keep(tokens, keep_BK)
        graph_BPP, place_BN = tokens.memory
        place_BK, place_BM = place_BN.gather(1, keep_BK), place_BN.gather(1, rest_BM)
        edge_BKM = place_BK.unsqueeze(2) * graph_BPP.shape[2] + place_BM.unsqueeze(1)
        flow_BKM = graph_BPP.flatten(1).gather(1, edge_BKM.flatten(1)).view(edge_BKM.shape) * self.alpha
        out = propagate(tokens, keep_BK, rest_BM, flow_BKM, sizes=self.prop_attn)
        return out._replace(memory=(graph_BPP, place_BK))

    def _graph(self, x_BPC: Tensor) -> Tensor:
        """The normalised graph of the patches: [B, P, P], row by row what each receives."""
        _, P, _ = x_BPC.shape
        place_P = torch.arange(P, device=x_BPC.device)
        similarity_BPP = cosines(x_BPC, x_BPC)
        graph, joined_BPP = self.graph_of(P), torch.zeros_like(similarity_BPP, dtype=torch.bool)
        if graph != "spatial":
            others_BPP = similarity_BPP.masked_fill(place_P == place_P.unsqueeze(1), -torch.inf)
            least_BP1 = others_BPP.topk(min(self.neighbours, P - 1), dim=-1).values[..., -1:]
            joined_BPP = others_BPP >= least_BP1
        if graph != "semantic":
            row_P, column_P = place_P // math.isqrt(P), place_P % math.isqrt(P)
            away_PP = torch.maximum((row_P - row_P.unsqueeze(1)).abs(), (column_P - column_P.unsqueeze(1)).abs())
            joined_BPP = joined_BPP | (away_PP == 1)
        scale_BP = joined_BPP.sum(dim=-1).to(similarity_BPP.dtype).rsqrt()
        return torch.where(joined_BPP, scale_BP.unsqueeze(2) * scale_BP.unsqueeze(1), 0.0)


def propagate(tokens: Tokens, keep_BK: Tensor, rest_BM: Tensor, flow_BKM: Tensor, *, sizes: bool) -> Tokens:
    """The patches in keep_BK, each with a weighted sum of those in rest_BM added; sizes likewise, if counted."""
    if sizes and tokens.size_BN is None:
        tokens = tokens._replace(size_BN=ops.ones_like_size(tokens.x_BNC))
    out, prefix = ops.keep(tokens, keep_BK), tokens.num_prefix
    flowing_BKC = matmul_without_autocast(flow_BKM.to(tokens.x_BNC.dtype), ops.take(tokens.x_BNC, rest_BM + prefix))
    out = out.with_features(out.x_BNC + pad(flowing_BKC, (0, 0, prefix, 0)))
    if not sizes or out.size_BN is None:
        return out
    joining_BK = (flow_BKM * ops.patch_sizes(tokens).gather(1, rest_BM).unsqueeze(1)).sum(dim=2)
    return out._replace(size_BN=out.size_BN + pad(joining_BK.to(out.size_BN.dtype), (prefix, 0)))


def own_and_received(attention: Attention) -> Tensor:
    """Largest attention that any head pays from a token to itself, times the largest sum that it receives: [B, N]."""
    own, received = [], []
    start = 0
    for rows_BHMN in attention.row_chunks():
        M = rows_BHMN.shape[2]
        own.append(rows_BHMN[:, :, :, start : start + M].diagonal(dim1=2, dim2=3).amax(dim=1))
        received.append(rows_BHMN.sum(dim=2))
        start += M
    return torch.cat(own, dim=1) * torch.stack(received).sum(dim=0).amax(dim=1)
