"""Base of methods whose predictors learn by masks which patches stay (DynamicViT, and TPS after it)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate, compress, pairwise
from operator import mul

import torch
from torch import Tensor, nn
from torch.nn.functional import gumbel_softmax

from . import masking
from .exits import Criterion
from .mask import Mask
from .precision import at_least_fp32
from .predictor import Predictor
from .schedule import is_number
from .seeds import seeded
from .spec import ViTSpec
from .staged import StagedMethod
from .tokens import Tokens

RATIO_WEIGHT = 2.0  # of the loss on the share that stays (DynamicViT, eq. 18)


@dataclass(frozen=True, kw_only=True)
class PredictedMethod(StagedMethod):
    """Base of methods that learn a predictor before each stage. In training they mask tokens, and do not remove them.

    softmax_eps: added to the sums of the masked softmax in training, at least 0.
    """

    needs_training = True
    trains_by_masks = True

    softmax_eps: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not is_number(self.softmax_eps) or not 0 <= self.softmax_eps < 1:
            raise ValueError(f"{self.name}: softmax_eps is a number from 0 to below 1, not {self.softmax_eps!r}.")

    def make_weights(self, layer: int, spec: ViTSpec) -> nn.Module | None:
        with seeded(layer):
            return Predictor(spec.channels) if self.stage(layer) else None

    def decides(self, layer: int) -> bool:
        """Whether patches go before block `layer`."""
        stage = self.stage(layer)
        return stage is not None and stage[1] < stage[0]

    def extra_macs(self, layer: int, num_patches: int, spec: ViTSpec) -> int:
        return Predictor.macs(num_patches, spec.channels) if self.decides(layer) else 0

    def predictor(self, layer: int) -> Predictor:
        """That of the block at work. ValueError if it has none."""
        if not isinstance(self.weights, Predictor):
            raise ValueError(
                f"{self.name}: block {layer} has no predictor: apply the method with reduce_tokens, which makes it, "
                "and train the model (vitrim train)."
            )
        return self.weights

    def mask(self, live_BN: Tensor | None) -> Mask | None:
        return None if live_BN is None else Mask(live_BN, self.softmax_eps, sees_itself=True)

    def before_block(self, layer: int, tokens: Tokens) -> Tokens:
        if not self.decides(layer) or not self.predictor(layer).training:
            return super().before_block(layer, tokens)
        was_BP = masking.live_patches(tokens)
        decision_BP = draw(self.predictor(layer)(tokens.patches_BNC, was_BP), was_BP)
        tokens = self.reduce_masked(tokens, was_BP.detach() > 0.5, decision_BP.detach() > 0.5)
        return masking.with_patches(tokens, decision_BP).collect(self.name, decision_BP)

    def reduce_masked(self, tokens: Tokens, was_BP: Tensor, stays_BP: Tensor) -> Tokens:
        """What a stage does to the features while masked patches stay in their rows. Both flags are of all patches."""
        return tokens

    def finish(self, tokens: Tokens) -> Tokens:
        return tokens if tokens.live_BN is None else fill_masked(tokens)

    def losses(self, collected: tuple[Tensor, ...], logits_BK: Tensor, criterion: Criterion) -> dict[str, Tensor]:
        falls = [after < before for before, after in pairwise(self.stages())]
        pairs = zip(collected, compress(self._shares(), falls), strict=True)
        misses = [(decision_BP.mean(dim=1) - share).square().mean() for decision_BP, share in pairs]
        return {"ratio": RATIO_WEIGHT * torch.stack(misses).mean()}

    def _shares(self) -> list[float]:
        """The share of the first patches that each stage shall leave."""
        if isinstance(self.keep_rate, tuple) and self.r is None:
            return list(accumulate(self.keep_rate, mul))
        return [after / self.stages()[0] for after in self.stages()[1:]]


def draw(log_probability_BP2: Tensor, live_BP: Tensor) -> Tensor:
    """Which live patches stay, at random by their probability: 1 or 0, with a straight-through gradient."""
    return gumbel_softmax(at_least_fp32(log_probability_BP2), hard=True)[:, :, 0] * live_BP


def fill_masked(tokens: Tokens) -> Tokens:
    """Give masked patches the mean of the live ones, which leaves their average alone. All count as live then."""
    prefix = tokens.num_prefix
    live_BP1 = masking.live_patches(tokens).unsqueeze(2).to(tokens.x_BNC.dtype)
    x_BPC = tokens.x_BNC[:, prefix:]
    mean_B1C = (x_BPC * live_BP1).sum(dim=1, keepdim=True) / live_BP1.sum(dim=1, keepdim=True).clamp(min=1)
    filled_BPC = mean_B1C + (x_BPC - mean_B1C) * live_BP1
    return tokens._replace(x_BNC=torch.cat([tokens.x_BNC[:, :prefix], filled_BPC], dim=1), live_BN=None)
