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
from ..heads import logits_of
from ..models.mix_token import Grid
from .token_labeling import mix_box, reduced_targets, token_labeling_loss


class Losses(NamedTuple):
    """The loss to minimise and the weighted terms that it sums, all scalars, and the model's logits."""

    loss: Tensor
    parts: dict[str, Tensor]
    logits_BK: Tensor


class ClassificationTask(nn.Module):
    """Cross-entropy, the method's own losses, and distillation from a teacher.

    A model in distilled training gives two logits, as DeiT's with a distillation token: the class token's learn from
    the targets and the distillation token's from the teacher; without a teacher both from the targets, half each.
    What else counts as the model's logits is their mean, as at inference. Called with images [B, C, H, W] and targets:
    class indices [B], or probabilities [B, K] (mixup).

    Args:
        model: what is trained, reduced or not.
        label_smoothing: share of each target that is spread over all classes.
        teacher: frozen, and not part of the state_dict.
        distillation: soft is KL(teacher || student) times T squared; hard is the cross-entropy with the teacher's
            choice; none.
        weight: the total is (1 - weight) times the rest, plus weight times the distillation.
        temperature: T.

    Source:
        DeiT (Touvron et al., ICML 2021), eq. 2 and 3.
    """

    model: nn.Module
    teacher: nn.Module | None
    outputs: list[Tokens]
    stack: TokenStack | None
    traces = False  # whether the losses need to know which token holds which patch

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
        self.__dict__["outputs"] = []
        found = find_stack(model)
        self.__dict__["stack"] = None if found is None else found.stack
        self.listen()

    def listen(self) -> list[Tokens]:
        """From now on, hear in this thread what the method tells; in the list that is returned."""
        if torch.compiler.is_compiling():
            return self.outputs  # of the last call that was not compiled
        outputs: list[Tokens] = []
        self.__dict__["outputs"] = outputs
        if self.stack is not None:
            self.stack.collect_outputs(outputs, traced=self.traces)
        return outputs

    def forward(self, x_BCHW: Tensor, target: Any) -> Losses:
        """Losses of one batch."""
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
        """Cross-entropy in fp32; probabilities are taken as they are, without label smoothing."""
        if not isinstance(target, Tensor):
            raise ValueError(f"targets are a tensor, class indices [B] or probabilities [B, K], not {target!r:.80}.")
        smoothing = 0.0 if target.is_floating_point() else self.label_smoothing
        return cross_entropy(logits_BK.float(), target, label_smoothing=smoothing)

    def _distil(self, x_BCHW: Tensor, logits_BK: Tensor) -> Tensor:
        assert self.teacher is not None
        with torch.no_grad():
            teacher_BK = _heads(self.teacher(x_BCHW))[0].float()
        if self.distillation == "hard":
            return cross_entropy(logits_BK.float(), teacher_BK.argmax(dim=1))
        T = self.temperature
        student, teacher = ((x.float() / T).log_softmax(dim=1) for x in (logits_BK, teacher_BK))
        return kl_div(student, teacher, reduction="batchmean", log_target=True) * T**2

    def to(self, *args: Any, **kwargs: Any) -> ClassificationTask:
        if self.teacher is not None:
            self.teacher.to(*args, **kwargs)
        return super().to(*args, **kwargs)


class TokenLabelingTask(ClassificationTask):
    """Token labeling: every token that leaves the last block has a target of its own; see `token_labeling`.

    model: an LV-ViT, which is made to return its dense output in training. Targets are those of the images before the
    MixToken box, ([B, K], [B, P, K]). The losses of a method, such as METR's exits, take the class logits without the
    tokens' maximum, and the class target as the box mixed it.
    """

    traces = True

    def __init__(self, model: nn.Module, *, dense_weight: float):
        if not hasattr(model, "aux_head") or not hasattr(model, "return_dense"):
            raise ValueError(
                f"token labeling needs a model with a head on every token, and {type(model).__name__} has none: choose "
                "lvvit_tiny, lvvit_small or lvvit_medium."
            )
        super().__init__(model)
        lv: Any = model
        lv.return_dense = True
        self.dense_weight = dense_weight
        self.grid: Grid = lv.patch_embed.grid_size

    def forward(self, x_BCHW: Tensor, target: Any) -> Losses:
        """Losses of one batch; in training mode alone."""
        outputs = self.listen()
        cls_BK, aux_BNK, box = self.model(x_BCHW)
        tokens = _published(outputs)
        target_BK, target_BPK = target
        target_BK, target_BNK = mix_box(target_BK, target_BPK, box, self.grid)
        if tokens is not None and tokens.source_BP is not None:
            target_BNK = reduced_targets(target_BNK, tokens.source_BP, aux_BNK.shape[1], tokens.num_prefix)
        parts = token_labeling_loss(cls_BK, aux_BNK, target_BK, target_BNK, dense_weight=self.dense_weight)
        return _losses(parts | self._of_method(tokens, cls_BK, target_BK), cls_BK)


def _heads(output: Any) -> tuple[Tensor, ...]:
    """The logits that came out, [B, K] each: one, or two of a model in distilled training."""
    logits = logits_of(output)
    heads = logits if isinstance(logits, tuple) else (logits,)
    if len(heads) > 2 or not all(isinstance(head, Tensor) and head.ndim == 2 for head in heads):
        came = tuple(logits.shape) if isinstance(logits, Tensor) else type(output).__name__
        raise ValueError(f"training takes a model that gives logits [batch, classes], or two of them, not {came}.")
    return heads


def _published(outputs: list[Tokens]) -> Tokens | None:
    tokens = outputs[0] if outputs else None
    outputs.clear()  # the graph lives no longer than the loss
    return tokens


def _losses(parts: dict[str, Tensor], logits_BK: Tensor) -> Losses:
    return Losses(torch.stack(list(parts.values())).sum(), parts, logits_BK)
