"""Anytime inference: an image leaves the model at the first exit whose confidence reaches a threshold.

The exits are the heads that METR trains on the class token of some blocks (methods/metr.py; A Simple Romance Between
Multi-Exit Vision Transformer and Token Reduction, ICLR 2024). The paper discards them at inference; here they are used.
An image whose exit reaches the threshold takes that exit's logits and leaves the batch, so later blocks run on the
remaining images only. Multi-exit networks use the same rule: by entropy in BranchyNet (Teerapittayanon et al., ICPR
2016), by confidence in MSDNet (Huang et al., ICLR 2018). Written from the papers.

The state of a forward is not kept on the model (core/listening.py), so forwards may run in several threads at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..backbones.reader import find_stack
from ..core import ops
from ..core.choices import check_choice
from ..core.exits import TRAINING_ONLY, check_widths
from ..core.listening import Listener, listeners_of, listening
from ..core.stack import TokenStack
from ..core.token_block import TokenBlock
from ..core.tokens import Tokens
from ..heads import logits_of, num_classes, width
from .certainty import MEASURES, By, Measure, check_thresholds


class Prediction(NamedTuple):
    """Logits in the order of the images, and the exit of each image."""

    logits_BK: Tensor
    exits_B: Tensor  # index into the wrapper's `exits`; len(exits) for an image that left at none


class Anytime(nn.Module):
    """A reduced model whose images leave early, made by `anytime`: [B, C, H, W] -> logits [B, K].

    After a forward, `exits_B` holds the exit of each image (see `Prediction`). With several threads use `predict`,
    which returns it. All other attributes are those of the model.

    Args:
        model, threshold, by: As for `anytime`.

    Attributes:
        exits: Blocks, 0-based, after which an image may leave. An exit after the last block is not used, since it
            would save nothing.
        thresholds: One per exit.
    """

    def __init__(self, model: nn.Module, threshold: float | Sequence[float], by: By = "confidence"):
        super().__init__()
        stack = _stack_of(model)
        check_choice(by, By, "by")
        self.by = by
        self.exits = exits_of(stack)
        self.thresholds = check_thresholds(threshold, len(self.exits))
        _check_classes(stack, self.exits, num_classes(model))
        self.exits_B: Tensor | None = None
        self.model = model
        self.training = model.training

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "model":
                raise
            return getattr(self.model, name)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return the logits [B, K] and set `exits_B`."""
        logits_BK, self.exits_B = self.predict(x_BCHW)
        return logits_BK

    def predict(self, x_BCHW: Tensor) -> Prediction:
        """Return the logits [B, K] and the exit of each image [B]."""
        run, final_SK = self._run(x_BCHW, self.thresholds)
        if not run.left:
            assert final_SK is not None
            return Prediction(final_SK, torch.full((len(final_SK),), len(self.exits), device=final_SK.device))
        left = run.left
        if final_SK is not None:
            left = [*left, Left(len(self.exits), run.index_S, final_SK)]
        order_B = torch.cat([part.index_L for part in left]).argsort()
        exits_B = torch.cat([torch.full_like(part.index_L, part.exit) for part in left])
        return Prediction(torch.cat([part.logits_LK for part in left])[order_B], exits_B[order_B])

    def all_logits(self, x_BCHW: Tensor) -> tuple[Tensor, ...]:
        """Return the logits of every exit and last of the final head, [B, K] each. No image leaves."""
        never = math.inf if self.by == "confidence" else -math.inf
        run, final_BK = self._run(x_BCHW, (never,) * len(self.exits))
        assert final_BK is not None
        return (*run.exit_logits, final_BK)

    def _run(self, x_BCHW: Tensor, thresholds: tuple[float, ...]) -> tuple[_Run, Tensor | None]:
        """Run one forward; return it with the logits of the images that left at no exit, None if all left."""
        if self.training:
            raise ValueError("images leave early only at inference: call .eval() first. METR trains the exits.")
        stack = _stack_of(self.model)
        if exits_of(stack) != self.exits:
            raise ValueError(f"the exits were after blocks {self.exits} and have changed: wrap the model again.")
        if any(listener.exclusive for listener in listeners_of(stack.spec)):
            raise ValueError("an anytime model cannot be traced, since images leave it: trace the model itself.")
        run = _Run(self.exits, MEASURES[self.by], thresholds)
        try:
            with listening(stack.spec, run):
                final_SK = logits_of(self.model(x_BCHW))
        except _NoneIsLeft:
            return run, None
        if len(run.exit_logits) != len(self.exits):
            raise RuntimeError(
                "the model ran past its exits, as a compiled model does: wrap the model before it is compiled."
            )
        if not isinstance(final_SK, Tensor) or final_SK.ndim != 2:
            raise ValueError(
                f"anytime needs a model that returns logits [batch, classes], not a {type(final_SK).__name__}."
            )
        return run, final_SK


def anytime(model: nn.Module, threshold: float | Sequence[float] = 0.9, by: By = "confidence") -> Anytime:
    """Wrap a model so that images leave at the first exit that reaches the threshold. The model is not changed.

    Works in eval mode, in any precision and under autocast. How the batch shrinks depends on the data, so
    torch.compile and export are not supported, and on a GPU every exit synchronises with the device. A prediction does
    not depend on the other images of the batch, except for rounding.

    Args:
        model: A model with trained exits, reduced by `reduce_tokens(model, METR(method=EViT(keep_rate=0.7)))`.
        threshold: One number, or one per exit.
        by: "confidence": an image leaves if its largest softmax probability is at least the threshold; above 1, none
            leaves. "entropy": an image leaves if the entropy of its softmax, divided by the logarithm of the number of
            classes, is at most the threshold; below 0, none leaves.

    Returns:
        The wrapper: [B, C, H, W] -> logits [B, K].

    Raises:
        ValueError: If the model has no exit heads, or the threshold is not valid.

    Source:
        Entropy: BranchyNet (Teerapittayanon et al., ICPR 2016). Confidence: MSDNet (Huang et al., ICLR 2018).
    """
    return Anytime(model, threshold, by)


class Left(NamedTuple):
    """L images that left together."""

    exit: int
    index_L: Tensor  # their indices in the batch
    logits_LK: Tensor


class _NoneIsLeft(Exception):
    """Ends the forward after the last image has left, whatever the model's class."""


@dataclass
class _Run(Listener):
    """The state of one forward."""

    exits: tuple[int, ...]
    measure: Measure
    thresholds: tuple[float, ...]
    left: list[Left] = field(default_factory=list)
    exit_logits: list[Tensor] = field(
        default_factory=list
    )  # logits of each exit so far, for the images that reached it
    index_S: Tensor = field(default_factory=lambda: torch.empty(0))  # indices of the remaining images, once some left

    def after_block(self, block: TokenBlock, tokens: Tokens, changed: bool) -> Tokens:
        """Return the tokens of the images that stay; `tokens` itself if all do, so the output is bit-identical."""
        if block.layer not in self.exits:
            return tokens
        logits_BK = _head_of(block)(tokens.first_BC)
        exit = len(self.exit_logits)
        self.exit_logits.append(logits_BK)
        leaves_B = self.measure.leaves(logits_BK, self.thresholds[exit])
        leaving, staying = leaves_B.nonzero().squeeze(1), (~leaves_B).nonzero().squeeze(1)
        if len(leaving) == 0:
            return tokens
        index_B = self.index_S if self.left else torch.arange(len(leaves_B), device=leaves_B.device)
        self.left.append(Left(exit, index_B[leaving], logits_BK[leaving]))
        if len(staying) == 0:
            raise _NoneIsLeft
        self.index_S = index_B[staying]
        return ops.select_images(tokens, staying)


def exits_of(stack: TokenStack) -> tuple[int, ...]:
    """The blocks after which an image can leave; ValueError if there is none, or fewer than two classes."""
    blocks: Any = stack
    exits = tuple(block.layer for block in blocks if _head_of(block) is not None and block.layer < stack.spec.depth - 1)
    if not exits:
        raise ValueError(
            f"{stack.spec.name} has no exit heads before its last block: reduce it with METR and load trained weights."
        )
    if stack.spec.num_classes < 2:
        raise ValueError(f"{stack.spec.name} has {stack.spec.num_classes} class: early exit needs at least two.")
    return exits


def _stack_of(model: nn.Module) -> TokenStack:
    found = find_stack(model)
    if found is None:
        raise ValueError("the model is not reduced and has no exits: reduce it with METR and load trained weights.")
    return found.stack


def _check_classes(stack: TokenStack, exits: Sequence[int], head: int | None) -> None:
    """Raise ValueError if the exits have another number of classes than the head, which may have been replaced."""
    widths = [width(_head_of(stack[layer])) for layer in exits]
    if head:
        check_widths([each for each in widths if each is not None], head)


def _head_of(block: Any) -> Any:
    return getattr(block.weights, TRAINING_ONLY, None)
