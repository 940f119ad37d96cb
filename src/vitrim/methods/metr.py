"""METR: A Simple Romance Between Multi-Exit Vision Transformer and Token Reduction (ICLR 2024).

Official code: https://github.com/LiuDongyang6/METR (Apache-2.0), a fork of EViT's.
In early blocks the class token's attention says little about which patches matter. Exit heads on the class token of
some blocks, trained on the labels and on the final head's output, force class information into it early on; the
scores of any reduction method improve with it. The heads cost nothing at inference, which can do without them.

As in the official code: a head is LayerNorm (eps 1e-6), Linear, Tanh, Linear, on the output of the block; the loss
adds 0.15 times the sum of the exits' losses, and 0.15 times the sum of their divergences from the final output.
The release lacks its divergence; ours is the usual one: KL(final || exit) of softmax(logits / T), the final output
detached, mean over the batch, times T squared.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import kl_div

from ..core.amount import Amount
from ..core.attention import Attention
from ..core.method import Criterion, Method
from ..core.precision import widen
from ..core.schedule import check_layers
from ..core.spec import ViTSpec
from ..core.stack import TRAINING_ONLY
from ..core.tokens import Tokens


@dataclass(frozen=True, kw_only=True)
class METR(Method):
    """Train exit heads along with another method, so that early class attention can be trusted.

    method: what reduces the tokens; the paper's is EViT with fusion.
    exits: blocks, 0-based, whose class token feeds a head; None takes the blocks that reduce, at whatever keep rate.
    exit_weight, distill_weight: factors of the exits' losses and divergences. temperature: of the divergences.
    """

    name = "metr"

    method: Method
    exits: Sequence[int] | None = None
    exit_weight: float = 0.15
    distill_weight: float = 0.15
    temperature: float = 1.0

    @property
    def merges(self) -> bool:
        return self.method.merges

    @property
    def fuses(self) -> bool:
        return self.method.fuses

    @property
    def varies(self) -> bool:
        return self.method.varies

    @property
    def size_in_attention(self) -> bool:
        return self.method.size_in_attention

    @property
    def amount(self) -> Amount | None:
        return self.method.amount

    def at(self, value: Any) -> METR:
        return replace(self, method=self.method.at(value))

    def build(self, spec: ViTSpec) -> METR:
        if not isinstance(self.method, Method) or isinstance(self.method, METR):
            raise ValueError(f"{self.name}: method must be what reduces the tokens, say EViT(), not {self.method!r}.")
        if not spec.has_cls:
            raise ValueError(f"{self.name} puts its exit heads on the class token, and {spec.name} has none.")
        if spec.num_classes < 1:
            raise ValueError(
                f"{self.name}: {spec.name} has no classifier, so its exits have nothing to predict (a head of your own "
                "counts as none where it does not show how many classes it tells)."
            )
        for setting in ("exit_weight", "distill_weight"):
            if not _is_finite(getattr(self, setting)) or getattr(self, setting) < 0:
                raise ValueError(f"{self.name}: {setting} must be at least 0, not {getattr(self, setting)!r}.")
        if not _is_finite(self.temperature) or self.temperature <= 0:
            raise ValueError(f"{self.name}: temperature must be above 0, not {self.temperature!r}.")
        built = self.method.build(spec)
        exits = _reducing_layers(built, spec) if self.exits is None else self.exits
        if self.exits is None and not exits:
            raise ValueError(f"{self.name}: {self.method.name} reduces in no block, so name the exits' blocks.")
        return replace(self, method=built, exits=check_layers(exits, spec.depth, f"{self.name}'s exits"))

    def num_kept(self, layer: int, num_patches: int) -> int:
        return self.method.num_kept(layer, num_patches)

    def extra_macs(self, layer: int, num_patches: int, spec: ViTSpec) -> int:
        return self.method.extra_macs(layer, num_patches, spec)

    def make_weights(self, layer: int, spec: ViTSpec) -> nn.Module | None:
        assert self.exits is not None, "build() comes first"
        weights = self.method.make_weights(layer, spec)
        if layer in self.exits:
            weights = nn.Module() if weights is None else weights
            weights.add_module(TRAINING_ONLY, exit_head(spec.channels, spec.num_classes))
        return weights

    def with_weights(self, weights: nn.Module | None) -> METR:
        return super(METR, replace(self, method=self.method.with_weights(weights))).with_weights(weights)

    def before_block(self, layer: int, tokens: Tokens) -> Tokens:
        return self.method.before_block(layer, tokens)

    def acts(self, layer: int, num_patches: int) -> bool:
        return self.method.acts(layer, num_patches)

    def after_attention(self, layer: int, tokens: Tokens, attention: Attention) -> Tokens:
        return self.method.after_attention(layer, tokens, attention)

    def after_block(self, layer: int, tokens: Tokens) -> Tokens:
        tokens = self.method.after_block(layer, tokens)
        if tokens.carry is None or self.weights is None or not hasattr(self.weights, TRAINING_ONLY):
            return tokens
        logits_BK = getattr(self.weights, TRAINING_ONLY)(tokens.first_BC)
        return tokens.tell(self.name, logits_BK)

    def finish(self, tokens: Tokens) -> Tokens:
        return self.method.finish(tokens)

    def losses_of(self, tokens: Tokens, logits_BK: Tensor, criterion: Criterion) -> dict[str, Tensor]:
        inner = self.method.losses_of(tokens, logits_BK, criterion)
        return inner | super().losses_of(tokens, logits_BK, criterion)

    def losses(self, told: tuple[Tensor, ...], logits_BK: Tensor, criterion: Criterion) -> dict[str, Tensor]:
        check_widths((exit_BK.shape[1] for exit_BK in told), logits_BK.shape[1])
        zero = logits_BK.new_zeros(())
        exits = sum((criterion(exit_BK) for exit_BK in told), zero)
        distillation = sum((divergence(exit_BK, logits_BK, self.temperature) for exit_BK in told), zero)
        return {"exits": self.exit_weight * exits, "distillation": self.distill_weight * distillation}


def exit_head(channels: int, num_classes: int) -> nn.Sequential:
    """The official head: [B, C] to logits [B, classes]."""
    return nn.Sequential(
        nn.LayerNorm(channels, eps=1e-6), nn.Linear(channels, channels), nn.Tanh(), nn.Linear(channels, num_classes)
    )


def check_widths(exits: Iterable[int], head: int) -> None:
    """ValueError unless the exits tell as many classes as the head."""
    for width in exits:
        if width != head:
            raise ValueError(
                f"METR's exits tell {width} classes and the model's head {head}: where the head was exchanged, "
                "restore(model) and reduce again."
            )


def divergence(student_BK: Tensor, teacher_BK: Tensor, temperature: float = 1.0) -> Tensor:
    """KL(teacher || student) of softened probabilities, mean over the batch, times T squared; teacher detached."""
    student = (widen(student_BK) / temperature).log_softmax(dim=1)
    teacher = (widen(teacher_BK.detach()) / temperature).log_softmax(dim=1)
    return kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2


def _reducing_layers(method: Method, spec: ViTSpec) -> tuple[int, ...]:
    """Where a built method reduces; the layers of a keep rate count at any rate, so that a warm-up may start at 1."""
    layers = set(getattr(method, "layers", ()))
    num_patches = spec.num_patches
    for layer in range(spec.depth):
        left = method.num_kept(layer, num_patches)
        layers |= {layer} if left < num_patches else set()
        num_patches = left
    return tuple(sorted(layers))


def _is_finite(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
