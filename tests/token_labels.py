"""The loss of token labeling from the outputs of a model, and options of the official code that vitrim lacks."""

from __future__ import annotations

from torch import Tensor

from vitrim.core.tokens import Tokens
from vitrim.models.mix_token import Grid
from vitrim.train.token_labeling import output_targets, token_labeling_loss


def loss_of_output(
    output: tuple[Tensor, Tensor, Tensor],
    target_BK: Tensor,
    target_BPK: Tensor,
    grid: Grid,
    tokens: Tokens | None = None,
    *,
    dense_weight: float = 1.0,
) -> dict[str, Tensor]:
    cls_BK, aux_BNK, box = output
    targets = output_targets(target_BK, target_BPK, box, grid, tokens)
    return token_labeling_loss(cls_BK, aux_BNK, *targets, dense_weight=dense_weight)


def mix_images(target: Tensor, lam: float) -> Tensor:
    """Targets of images that were mixed with the reversed batch, whose share is 1 - lam."""
    return lam * target + (1 - lam) * target.flip(0)


def with_truth(target_BK: Tensor, truth_BK: Tensor) -> Tensor:
    """The option `ground_truth`: the truth has a share of 0.5 if the target is right, of 0.1 otherwise."""
    right_B1 = target_BK.argmax(dim=1, keepdim=True) == truth_BK.argmax(dim=1, keepdim=True)
    share_B1 = 0.9 - 0.4 * right_B1.to(target_BK.dtype)
    return target_BK * share_B1 + truth_BK * (1 - share_B1)
