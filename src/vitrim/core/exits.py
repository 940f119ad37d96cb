"""METR's exits: A Simple Romance Between Multi-Exit Vision Transformer and Token Reduction (ICLR 2024).

Official code: https://github.com/LiuDongyang6/METR (Apache-2.0), a fork of EViT's.
In early blocks the class token's attention says little about which patches matter. Exit heads, trained on the labels
and on the final output, force class information into it, and the scores of any method improve. Inference can leave the
heads out, or let images exit at them (`vitrim.anytime`).

    L = CE(final) + exit_weight Σ CE(exit_e) + distill_weight Σ KL(final ‖ exit_e)    over the exits e

As in the official code: a head is LayerNorm (eps 1e-6), Linear, Tanh, Linear, on the output of the block; both weights
are 0.15. The release lacks its divergence. Ours is the usual one: KL(final || exit) of softmax(logits / T), the final
output detached, mean over the batch, times T squared.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn
from torch.nn.functional import kl_div

from .precision import at_least_fp32
from .schedule import check_layers, is_number
from .spec import ViTSpec
from .tokens import Tokens

TRAINING_ONLY = "exit"  # name of a block's learned weights that inference does not need
Criterion = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Exits:
    """Exit heads to train along with a method, so that early class attention can be trusted.

    Args:
        layers: 0-based blocks whose class token feeds a head. None takes the reducing blocks, even at a keep rate of 1.
        exit_weight: factor of the exits' losses.
        distill_weight: factor of their divergences from the final output.
        temperature: temperature of these divergences.

    Raises:
        ValueError: If a weight is below 0, or the temperature is not above 0.

    Source:
        METR, ICLR 2024; official code: https://github.com/LiuDongyang6/METR (Apache-2.0).

    >>> Exits(layers=(3, 6, 9))
    Exits(layers=(3, 6, 9), exit_weight=0.15, distill_weight=0.15, temperature=1.0)
    """

    layers: Sequence[int] | None = None
    exit_weight: float = 0.15
    distill_weight: float = 0.15
    temperature: float = 1.0

    name = "metr"  # under which the logits are collected

    def __post_init__(self) -> None:
        for setting in ("exit_weight", "distill_weight"):
            if not _is_finite(getattr(self, setting)) or getattr(self, setting) < 0:
                raise ValueError(f"metr's exits: {setting} must be at least 0, not {getattr(self, setting)!r}.")
        if not _is_finite(self.temperature) or self.temperature <= 0:
            raise ValueError(f"metr's exits: temperature must be above 0, not {self.temperature!r}.")

    def build(self, method: str, reducing: Sequence[int], spec: ViTSpec) -> Exits:
        """Resolve the blocks for one model. ValueError if they do not fit.

        method, reducing: the name of the method, and the blocks where it reduces.
        """
        if not spec.has_cls:
            raise ValueError(f"metr puts its exit heads on the class token, and {spec.name} has none.")
        if spec.num_classes < 1:
            raise ValueError(
                f"metr: {spec.name} has no classifier, so its exits have nothing to predict. A head of your own needs "
                "a last linear layer, which shows the number of classes."
            )
        layers = reducing if self.layers is None else self.layers
        if self.layers is None and not layers:
            raise ValueError(f"metr: {method} reduces in no block: give the blocks of the exits.")
        return replace(self, layers=check_layers(layers, spec.depth, "metr's exits"))

    def beside(self, weights: nn.Module | None, layer: int, spec: ViTSpec) -> nn.Module | None:
        """The weights of a block, with the exit head there."""
        assert self.layers is not None, "build() comes first"
        if layer not in self.layers:
            return weights
        weights = nn.Module() if weights is None else weights
        if hasattr(weights, TRAINING_ONLY):
            raise ValueError(
                f"metr's exits: the method already learns something called {TRAINING_ONLY!r} in block {layer}."
            )
        weights.add_module(TRAINING_ONLY, exit_head(spec.channels, spec.num_classes))
        return weights

    def collect(self, layer: int, tokens: Tokens, weights: nn.Module | None) -> Tokens:
        """Collect the logits of the exit after block `layer`, if it has one."""
        assert self.layers is not None, "build() comes first"
        if layer not in self.layers:
            return tokens
        head = getattr(weights, TRAINING_ONLY, None)
        if head is None:
            raise ValueError(f"block {layer} has no exit head: apply exits with reduce_tokens, which makes the heads.")
        return tokens.collect(self.name, head(tokens.first_BC))

    def losses_of(self, tokens: Tokens, logits_BK: Tensor, criterion: Criterion) -> dict[str, Tensor]:
        """The losses of the exit logits collected in `tokens`; {} if there are none."""
        exit_logits = tokens.collected(self.name)
        return self.losses(exit_logits, logits_BK, criterion) if exit_logits else {}

    def losses(self, exit_logits: tuple[Tensor, ...], logits_BK: Tensor, criterion: Criterion) -> dict[str, Tensor]:
        """Weighted losses by name, each a scalar. exit_logits: [B, classes] each. criterion: maps logits to a loss."""
        check_widths((exit_BK.shape[1] for exit_BK in exit_logits), logits_BK.shape[1])
        zero = logits_BK.new_zeros(())
        exits = sum((criterion(exit_BK) for exit_BK in exit_logits), zero)
        distillation = sum((divergence(exit_BK, logits_BK, self.temperature) for exit_BK in exit_logits), zero)
        return {"exits": self.exit_weight * exits, "distillation": self.distill_weight * distillation}


def exit_head(channels: int, num_classes: int) -> nn.Sequential:
    """The official head: [B, C] to logits [B, classes]."""
    return nn.Sequential(
        nn.LayerNorm(channels, eps=1e-6), nn.Linear(channels, channels), nn.Tanh(), nn.Linear(channels, num_classes)
    )


def check_widths(exits: Iterable[int], head: int) -> None:
    """ValueError unless the exits have as many classes as the head."""
    for width in exits:
        if width != head:
            raise ValueError(
                f"METR's exits have {width} classes and the model's head {head}: if the head was replaced, "
                "restore(model) and reduce again."
            )


def divergence(student_BK: Tensor, teacher_BK: Tensor, temperature: float = 1.0) -> Tensor:
    """KL(teacher || student) of softened probabilities, mean over the batch, times T squared. Detaches the teacher."""
    student = (at_least_fp32(student_BK) / temperature).log_softmax(dim=1)
    teacher = (at_least_fp32(teacher_BK.detach()) / temperature).log_softmax(dim=1)
    return kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2


def _is_finite(value: object) -> bool:
    return is_number(value) and abs(value) <= sys.float_info.max
