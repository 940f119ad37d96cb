"""The module that DDP and FSDP wrap: one training step from images and targets to losses.

Shape letters: B batch, K classes, N tokens, P patches.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ..backbones.reader import find_stack
from ..core.exits import divergence
from ..core.stack import TokenStack
from ..core.tokens import Tokens
from ..heads import logits_of
from ..models.mix_token import Grid
from .token_labeling import output_targets, token_labeling_loss


class Losses(NamedTuple):
    """The losses of one batch."""

    loss: Tensor  # the sum of the parts, to minimise
    parts: dict[str, Tensor]  # weighted terms, by name
    logits_BK: Tensor


class ClassificationTask(nn.Module):
    """Cross-entropy, the method's own losses, and distillation from a teacher.

    A model in distilled training, such as DeiT with a distillation token, returns two logits. Those of the class token
    learn from the targets, those of the distillation token from the teacher. Without a teacher, both learn from the
    targets, with half the weight each. All other losses use their mean, as at inference. The module takes images
    [B, C, H, W] and targets: class indices [B], or probabilities [B, K] (mixup).

    Args:
        model: The model to train, reduced or not.
        label_smoothing: Share of each target that is spread over all classes.
        teacher: A model that is frozen and not part of the state_dict.
        distillation: "soft" is KL(teacher || student) times the squared temperature. "hard" is the cross-entropy with
            the teacher's prediction. Or "none".
        weight: The total is (1 - weight) times the other losses plus weight times the distillation.
        temperature: Of soft distillation.

    Source:
        DeiT (Touvron et al., ICML 2021), eq. 2 and 3.
    """

    model: nn.Module
    teacher: nn.Module | None
    outputs: list[Tokens]
    stack: TokenStack | None
    traces = False  # whether the losses need the source token of every patch

    def __init__(
        self,
        model: nn.Module,
        *,
        label_smoothing: float = 0.0,
        teacher: nn.Module | None = None,
        distillation: str = "none",
        weight: float = 0.5,
        temperature: float = 1.0,
    ):
        super().__init__()
        self.model, self.label_smoothing = model, label_smoothing
        self.distillation, self.weight, self.temperature = distillation, weight, temperature
        # In __dict__, so that nn.Module does not register it: the teacher is not trained, wrapped or saved.
        self.__dict__["teacher"] = None if teacher is None else teacher.eval().requires_grad_(False)
        self.__dict__["outputs"] = []
        found = find_stack(model)
        self.__dict__["stack"] = None if found is None else found.stack
        self.listen()

    def listen(self) -> list[Tokens]:
        """Collect the method's auxiliary outputs of later forwards in this thread, in the list that is returned."""
        if torch.compiler.is_compiling():
            return self.outputs  # of the last uncompiled call
        outputs: list[Tokens] = []
        self.__dict__["outputs"] = outputs
        if self.stack is not None:
            self.stack.collect_outputs(outputs, traced=self.traces)
        return outputs

    def forward(self, x_BCHW: Tensor, target: Any) -> Losses:
        """Return the losses of one batch."""
        outputs = self.listen()
        heads = _heads(self.model(x_BCHW))
        logits_BK = heads[0] if len(heads) == 1 else (heads[0] + heads[1]) / 2
        taught = heads[:1] if self.teacher is not None else heads
        loss = torch.stack([self.criterion(head_BK, target) for head_BK in taught]).mean()
        parts = {"class": loss} | self._of_method(_published(outputs), logits_BK, target)
        if self.teacher is not None:
            parts = {name: (1 - self.weight) * part for name, part in parts.items()}
            parts["teacher"] = self.weight * self._distil(x_BCHW, heads[-1])
        return _losses(parts, logits_BK)

    def _of_method(self, tokens: Tokens | None, logits_BK: Tensor, target: Tensor) -> dict[str, Tensor]:
        if self.stack is None or tokens is None or not tokens.aux:
            return {}
        return self.stack.method.losses_of(tokens, logits_BK, lambda x_BK: self.criterion(x_BK, target))

    def criterion(self, logits_BK: Tensor, target: Tensor) -> Tensor:
        """Return the cross-entropy in fp32. Label smoothing applies to class indices, not to probabilities."""
        if not isinstance(target, Tensor):
            raise ValueError(
                f"targets must be a tensor of class indices [B] or probabilities [B, K], not {target!r:.80}."
            )
        smoothing = 0.0 if target.is_floating_point() else self.label_smoothing
        return cross_entropy(logits_BK.float(), target, label_smoothing=smoothing)

    def _distil(self, x_BCHW: Tensor, logits_BK: Tensor) -> Tensor:
        assert self.teacher is not None
        with torch.no_grad():
            teacher_BK = _heads(self.teacher(x_BCHW))[0].float()
        if self.distillation == "hard":
            return cross_entropy(logits_BK.float(), teacher_BK.argmax(dim=1))
        return divergence(logits_BK, teacher_BK, self.temperature)

    def to(self, *args: Any, **kwargs: Any) -> ClassificationTask:
        if self.teacher is not None:
            self.teacher.to(*args, **kwargs)
        return super().to(*args, **kwargs)


class TokenLabelingTask(ClassificationTask):
    """Token labeling: every token after the last block has its own target; see `token_labeling`.

    The targets ([B, K], [B, P, K]) are those of the images before they are mixed. The losses of a method, such as
    METR's exits, use the logits of the class token alone, and the mixed class target.

    Args:
        model: An LV-ViT. It is set to return its dense output in training.
        dense_weight: Weight of the loss on tokens.
    """

    traces = True

    def __init__(self, model: nn.Module, *, dense_weight: float):
        if not hasattr(model, "aux_head") or not hasattr(model, "return_dense"):
            raise ValueError(
                f"token labeling needs a model with a head on every token, which {type(model).__name__} lacks: choose "
                "lvvit_tiny, lvvit_small or lvvit_medium."
            )
        super().__init__(model)
        lv: Any = model
        lv.return_dense = True
        self.dense_weight = dense_weight
        self.grid: Grid = lv.patch_embed.grid_size

    def forward(self, x_BCHW: Tensor, target: Any) -> Losses:
        """Return the losses of one batch, in training mode only."""
        outputs = self.listen()
        cls_BK, aux_BNK, box = self.model(x_BCHW)
        tokens = _published(outputs)
        target_BK, target_BPK = target
        target_BK, target_BNK = output_targets(target_BK, target_BPK, box, self.grid, tokens)
        parts = token_labeling_loss(cls_BK, aux_BNK, target_BK, target_BNK, dense_weight=self.dense_weight)
        return _losses(parts | self._of_method(tokens, cls_BK, target_BK), cls_BK)


def _heads(output: Any) -> tuple[Tensor, ...]:
    """Return the logits in a model's output, [B, K] each: one tensor, or two in distilled training."""
    logits = logits_of(output)
    heads = logits if isinstance(logits, tuple) else (logits,)
    if len(heads) > 2 or not all(isinstance(head, Tensor) and head.ndim == 2 for head in heads):
        found = tuple(logits.shape) if isinstance(logits, Tensor) else type(output).__name__
        raise ValueError(f"training needs a model that returns one or two logits [batch, classes], not {found}.")
    return heads


def _published(outputs: list[Tokens]) -> Tokens | None:
    tokens = outputs[0] if outputs else None
    outputs.clear()  # so that the graph is freed with the loss
    return tokens


def _losses(parts: dict[str, Tensor], logits_BK: Tensor) -> Losses:
    return Losses(torch.stack(list(parts.values())).sum(), parts, logits_BK)
