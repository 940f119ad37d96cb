"""What a model answers, and how far two answers are apart. No labels are needed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..heads import logits_of


@dataclass(frozen=True)
class Answers:
    """Reads a model's output.

    classes: whether it is logits; else it is an embedding, [B, C], or tokens, [B, N, C], of which the first num_prefix
    are class and register tokens.
    """

    classes: bool
    num_prefix: int = 1

    def read(self, output: Any) -> Tensor:
        """Log-probabilities [B, K], or embeddings of length 1 [B, C], in fp32; ValueError for anything else."""
        found = logits_of(output) if self.classes else _embedding(output, self.num_prefix)
        if not isinstance(found, Tensor) or found.ndim != 2:
            raise ValueError(f"tune needs logits or embeddings, one row per image, and got {_described(found)}.")
        if not found.isfinite().all():
            raise ValueError("the model's outputs are not finite: its weights or its precision are unfit.")
        return found.float().log_softmax(dim=1) if self.classes else F.normalize(found.float(), dim=1)

    def divergence(self, wanted_BK: Tensor, found_BK: Tensor) -> Tensor:
        """How far each answer is from the wanted one, at least 0: [B].

        Kullback-Leibler divergence in nats for classes; 1 - cosine for embeddings.
        """
        if self.classes:
            return (wanted_BK.exp() * (wanted_BK - found_BK)).sum(dim=1).clamp(min=0)
        return (1 - (wanted_BK * found_BK).sum(dim=1)).clamp(min=0)

    @property
    def unit(self) -> str:
        """What a divergence is, in words."""
        return "Kullback-Leibler divergence, nats" if self.classes else "1 - cosine of the embeddings"


def _embedding(output: Any, num_prefix: int) -> Any:
    """One vector per image: the output itself, what a library calls it, or the class token or mean of tokens."""
    if not isinstance(output, Tensor):
        for name in ("image_embeds", "pooler_output", "last_hidden_state"):
            found = output.get(name) if isinstance(output, dict) else getattr(output, name, None)
            if isinstance(found, Tensor):
                return _embedding(found, num_prefix)
        return output[0] if isinstance(output, tuple) and output else output
    if output.ndim == 3:
        return output[:, 0] if num_prefix > 0 else output.mean(dim=1)
    return output


def _described(found: Any) -> str:
    return f"a tensor of shape {tuple(found.shape)}" if isinstance(found, torch.Tensor) else f"a {type(found).__name__}"
