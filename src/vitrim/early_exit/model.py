"""Anytime inference: an image leaves the model at the first exit that is sure of it.

The exits are the heads that METR trains on the class token of some blocks (methods/metr.py; A Simple Romance Between
Multi-Exit Vision Transformer and Token Reduction, ICLR 2024), whose paper throws them away at inference. Here they
are kept: an image whose exit reaches the threshold takes that exit's logits and leaves the batch, so that the blocks
after it run on the remaining images alone. The rule is that of multi-exit networks at large: entropy in BranchyNet
(Teerapittayanon et al., ICPR 2016), confidence in MSDNet (Huang et al., ICLR 2018). Written from the papers.

What belongs to one forward lies on no model (core/listening.py): forwards of one wrapper, of several on one model, and
of the model itself may run in different threads at once.
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
    """Logits in the images' order, and where each image left."""

    logits_BK: Tensor
    exits_B: Tensor  # index into the wrapper's `exits`; their number for an image that ran to the end


class Anytime(nn.Module):
    """A reduced model whose images leave early; made by `anytime`. [B, C, H, W] -> logits [B, K].

    After a forward, exits_B tells where its images left, see `Prediction`; with several threads take `predict`, which
    returns it. Attributes that this class lacks are the model's.

    Args:
        model, threshold, by: as for `anytime`.

    Attributes:
        exits: blocks, 0-based, after which an image may leave; one after the last block would save nothing and is not
            used.
        thresholds: one for each.
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
        """Logits [B, K]; `exits_B` then tells where each image left."""
        logits_BK, self.exits_B = self.predict(x_BCHW)
        return logits_BK

    def predict(self, x_BCHW: Tensor) -> Prediction:
        """Logits [B, K] and where each image left [B]."""
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
        """What every exit says of every image, and the final head last, [B, K] each; nobody leaves."""
        never = math.inf if self.by == "confidence" else -math.inf
        run, final_BK = self._run(x_BCHW, (never,) * len(self.exits))
        assert final_BK is not None
        return (*run.heard, final_BK)

    def _run(self, x_BCHW: Tensor, thresholds: tuple[float, ...]) -> tuple[_Run, Tensor | None]:
        """One forward, and the logits of the images that ran to the end; None if none did."""
        if self.training:
            raise ValueError("images leave early at inference only: call .eval() first; METR trains the exits.")
        stack = _stack_of(self.model)
        if exits_of(stack) != self.exits:
            raise ValueError(f"the exits were after blocks {self.exits} and have changed: wrap the model again.")
        if any(listener.exclusive for listener in listeners_of(stack.spec)):
            raise ValueError("patches cannot be followed where images leave: trace the model itself.")
        run = _Run(self.exits, MEASURES[self.by], thresholds)
        try:
            with listening(stack.spec, run):
                final_SK = logits_of(self.model(x_BCHW))
        except _NoneIsLeft:
            return run, None
        if len(run.heard) != len(self.exits):
            raise RuntimeError(
                "the model ran past its exits, as a compiled one does: wrap the model itself, without compile."
            )
        if not isinstance(final_SK, Tensor) or final_SK.ndim != 2:
            raise ValueError(f"an anytime model returns logits [batch, classes], and a {type(final_SK).__name__} came.")
        return run, final_SK


def anytime(model: nn.Module, threshold: float | Sequence[float] = 0.9, by: By = "confidence") -> Anytime:
    """The model with images leaving at the first exit that is sure of them; the model itself stays as it is.

    Works in eval mode, in any precision and under autocast. How the batch shrinks depends on the data, so there is
    no torch.compile and no export, and on a GPU every exit waits for the device. A prediction depends on the rest of
    the batch no more than the model's own rounding does.

    Args:
        model: one reduced with METR, `reduce_tokens(model, METR(method=EViT(keep_rate=0.7)))`, with trained exits.
        threshold: one number, or one for each exit.
        by: "confidence", an image leaves where the largest softmax probability is at least the threshold (above 1:
            never), or "entropy", where the entropy of the softmax, divided by the logarithm of the number of classes,
            is at most the threshold (below 0: never).

    Returns:
        The wrapper, [B, C, H, W] -> logits [B, K].

    Raises:
        ValueError: for a model without exit heads, or a threshold that is none.

    Source:
        Entropy: BranchyNet (Teerapittayanon et al., ICPR 2016). Confidence: MSDNet (Huang et al., ICLR 2018).
    """
    return Anytime(model, threshold, by)


class Left(NamedTuple):
    """L images that left together."""

    exit: int
    index_L: Tensor  # their places in the batch
    logits_LK: Tensor


class _NoneIsLeft(Exception):
    """The last image has left: ends the forward, so that what comes after is skipped whatever the model's class."""


@dataclass
class _Run(Listener):
    """One forward of one wrapper."""

    exits: tuple[int, ...]
    measure: Measure
    thresholds: tuple[float, ...]
    left: list[Left] = field(default_factory=list)
    heard: list[Tensor] = field(default_factory=list)  # logits of each exit so far, for the images that reached it
    index_S: Tensor = field(default_factory=lambda: torch.empty(0))  # places of those still here, once some left

    def after_block(self, block: TokenBlock, tokens: Tokens, changed: bool) -> Tokens:
        """The images that stay. Where all do, the very tokens: the numbers are then the model's own to the last bit."""
        if block.layer not in self.exits:
            return tokens
        logits_BK = _head_of(block)(tokens.first_BC)
        exit = len(self.heard)
        self.heard.append(logits_BK)
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
    """The blocks after which an image can leave; ValueError if there is none, or nothing to be sure about."""
    blocks: Any = stack
    exits = tuple(block.layer for block in blocks if _head_of(block) is not None and block.layer < stack.spec.depth - 1)
    if not exits:
        raise ValueError(
            f"{stack.spec.name} has no exit heads before its last block: reduce it with METR and load trained weights."
        )
    if stack.spec.num_classes < 2:
        raise ValueError(
            f"{stack.spec.name} tells {stack.spec.num_classes} class, so no exit can be more or less sure."
        )
    return exits


def _stack_of(model: nn.Module) -> TokenStack:
    found = find_stack(model)
    if found is None:
        raise ValueError("a model that carries all its tokens has no exits: reduce it with METR and load its weights.")
    return found.stack


def _check_classes(stack: TokenStack, exits: Sequence[int], head: int | None) -> None:
    """ValueError where the model's head was exchanged, so that images would leave with logits of other classes."""
    widths = [width(_head_of(stack[layer])) for layer in exits]
    if head:
        check_widths([each for each in widths if each is not None], head)


def _head_of(block: Any) -> Any:
    return getattr(block.weights, TRAINING_ONLY, None)
