"""What one training step computes: the module that DDP and FSDP wrap, from images and targets to losses.

Shape letters: B batch, K classes, N tokens, P patches.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div

from ..backbones.reader import find_stack
from ..core.stack import TokenStack
from ..core.tokens import Tokens


class Losses(NamedTuple):
    """The loss to minimise and the weighted terms that it sums, all scalars, and the model's logits."""

    loss: Tensor
    parts: dict[str, Tensor]
    logits_BK: Tensor


class ClassificationTask(nn.Module):
    """Cross-entropy, the method's own losses, and distillation from a teacher.

    Targets are class indices [B], or probabilities [B, K] (mixup, token labels). The teacher is frozen and not part
    of the state_dict. distillation (DeiT, eq. 2 and 3): soft is KL(teacher || student) times T squared; hard is the
    cross-entropy with the teacher's choice; the total is (1 - weight) times the rest, plus weight times it.
    """

    model: nn.Module
    teacher: nn.Module | None
    outbox: list[Tokens]
    stack: TokenStack | None

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
        # Past nn.Module: the teacher is neither trained, nor wrapped, nor saved.
        self.__dict__["teacher"] = None if teacher is None else teacher.eval().requires_grad_(False)
        self.__dict__["outbox"] = []
        found = find_stack(model)
        self.__dict__["stack"] = None if found is None else found.stack

    def listen(self) -> None:
        """From now on, hear what the method tells; needed before a forward."""
        if self.stack is not None:
            self.stack.publish_into(self.outbox)

    def forward(self, x_BCHW: Tensor, target: Tensor) -> Losses:
        """Losses of one batch."""
        self.outbox.clear()
        output = self.model(x_BCHW)
        return self._sum(x_BCHW, target, output, self._published())

    def _published(self) -> Tokens | None:
        tokens = self.outbox[0] if self.outbox else None
        self.outbox.clear()  # the graph lives no longer than the loss
        return tokens

    def _sum(self, x_BCHW: Tensor, target: Tensor, logits_BK: Tensor, tokens: Tokens | None) -> Losses:
        parts = {"class": self.criterion(logits_BK, target)}
        if self.stack is not None and tokens is not None and tokens.carry:
            parts |= self.stack.method.losses(tokens.carry, logits_BK, lambda x_BK: self.criterion(x_BK, target))
        if self.teacher is not None:
            parts = {name: (1 - self.weight) * part for name, part in parts.items()}
            parts["teacher"] = self.weight * self._distil(x_BCHW, logits_BK)
        return Losses(torch.stack(list(parts.values())).sum(), parts, logits_BK)

    def criterion(self, logits_BK: Tensor, target: Tensor) -> Tensor:
        """Cross-entropy in fp32; probabilities are taken as they are, without label smoothing."""
        smoothing = 0.0 if target.is_floating_point() else self.label_smoothing
        return cross_entropy(logits_BK.float(), target, label_smoothing=smoothing)

    def _distil(self, x_BCHW: Tensor, logits_BK: Tensor) -> Tensor:
        assert self.teacher is not None
        with torch.no_grad():
            teacher_BK = self.teacher(x_BCHW).float()
        if self.distillation == "hard":
            return cross_entropy(logits_BK.float(), teacher_BK.argmax(dim=1))
        T = self.temperature
        student, teacher = ((x.float() / T).log_softmax(dim=1) for x in (logits_BK, teacher_BK))
        return kl_div(student, teacher, reduction="batchmean", log_target=True) * T**2

    def to(self, *args: Any, **kwargs: Any) -> ClassificationTask:
        if self.teacher is not None:
            self.teacher.to(*args, **kwargs)
        return super().to(*args, **kwargs)
