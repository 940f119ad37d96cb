"""Importance scores of patches, and the base of methods that rank by them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeVar

import torch
from torch import Tensor

from . import packing, portable
from .attention import Attention
from .choices import check_choice
from .method import KeepRateMethod, Method
from .precision import at_least_fp32
from .spec import ViTSpec
from .tokens import Tokens

Scorer = Literal["cls", "received", "norm", "shift"]
WITHOUT_CLS: Scorer = "received"  # replaces cls in commands if the model has no class token


def patch_scores(scorer: Scorer, tokens: Tokens, attention: Attention) -> Tensor:
    """Importance of each patch token in at least fp32: [B, N - prefix], padded with zeros if packed.

    cls: attention of the class token, mean over heads (EViT, section 3.2). received: attention received from all
    tokens, mean over heads. norm: Euclidean norm of the features, divided by its sum over all patches. shift: the
    same for MLP(x) - x, how much the MLP changes the features (Representation Shift, ICCV 2025,
    https://arxiv.org/abs/2508.00367); a method that ranks by it reduces after the MLP. The last three need no class
    token. Scores sum to at most 1 in an image, so they can serve as weights of a sum of features.
    """
    if scorer in ("norm", "shift"):
        measured = tokens if scorer == "norm" else _shifts(tokens, attention)
        norm_BN = portable.norm(at_least_fp32(measured.patches_BNC)).squeeze(-1)
        return norm_BN / norm_BN.sum(dim=1, keepdim=True).clamp(min=torch.finfo(norm_BN.dtype).tiny)
    row_BHN = attention.cls_row() if scorer == "cls" else attention.received()
    return row_BHN[:, :, tokens.num_prefix :].mean(dim=1)


def value_scores(scorer: Scorer, tokens: Tokens, attention: Attention) -> Tensor:
    """`patch_scores` times the norm of each value, all heads together, which sum to 1 in an image (ATS, eq. 3).

    norm stands for itself: [B, N - prefix], padded with zeros if packed.
    """
    score_BN = patch_scores(scorer, tokens, attention)
    if scorer != "norm":
        norm_BN = portable.norm(at_least_fp32(attention.v_BHND.transpose(1, 2).flatten(2))).squeeze(2)
        if tokens.lengths is not None:
            norm_BN = packing.pad(norm_BN[0], tokens.lengths)
        score_BN = score_BN * norm_BN[:, tokens.num_prefix :]
    return score_BN / score_BN.sum(dim=1, keepdim=True).clamp(min=torch.finfo(score_BN.dtype).tiny)


def _shifts(tokens: Tokens, attention: Attention) -> Tokens:
    """The MLP's output minus its input. After the MLP, tokens hold the sum of the two."""
    assert attention.mlp_input_BNC is not None, "only after the MLP"
    return tokens.with_features(at_least_fp32(tokens.x_BNC) - 2 * at_least_fp32(attention.mlp_input_BNC))


def score_macs(scorer: Scorer, num_patches: int, spec: ViTSpec) -> int:
    """Multiply-adds of `patch_scores` for one image."""
    N = num_patches + spec.num_prefix
    return {"cls": N, "received": N * N}.get(scorer, 0) * spec.attention_channels


def check_scorer(method: Method, scorer: Scorer, spec: ViTSpec) -> None:
    """ValueError if the scorer needs a class token and the model has none."""
    if scorer == "cls" and not spec.has_cls:
        raise ValueError(
            f"{method.name} scores patches by the attention of the class token, and {spec.name} has none: use "
            "scorer='received' (mean attention received) or scorer='norm' (feature norm), or scorer='shift' (how much "
            "the MLP changes the features)."
        )


S = TypeVar("S", bound="ScoredMethod")


@dataclass(frozen=True, kw_only=True)
class ScoredMethod(KeepRateMethod):
    """Base of keep-rate methods that rank the patches.

    scorer: cls, received, norm or shift, see `patch_scores`. cls needs a class token.
    """

    scorer: Scorer = "cls"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self.scorer, Scorer, f"{self.name}: scorer")

    def build(self: S, spec: ViTSpec) -> S:
        check_scorer(self, self.scorer, spec)
        return super().build(spec)

    def score_macs(self, num_patches: int, spec: ViTSpec) -> int:
        return score_macs(self.scorer, num_patches, spec)
