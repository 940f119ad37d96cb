"""Under autocast a method sees features in fp32 and queries and keys in bf16: what it makes of them is not rounded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from families import SMALL, method_for
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

import vitrim
from vitrim.core.attention import Attention
from vitrim.core.predicted import PredictedMethod
from vitrim.core.tokens import Tokens

P, C, H = 400, 48, 3  # more patches than bf16 can count
SETTINGS = [
    *((name, {}) for name in vitrim.list_methods()),
    ("evit", {"scorer": "received"}),
    ("evit", {"scorer": "norm"}),
    *(("token_mergence", {"similarity": name}) for name in ("l1", "l2", "attention", "random")),
    *(("beyond_attentive", {"inattentive": name}) for name in ("kmeans", "average", "max", "spatial", "conv", "mlp")),
]


@pytest.mark.parametrize(("name", "settings"), SETTINGS, ids=lambda part: part if isinstance(part, str) else str(part))
def test_what_becomes_of_tokens_is_that_of_double_precision(name: str, settings: Mapping[str, Any]) -> None:
    torch.manual_seed(0)
    model = VisionTransformer(**(SMALL | {"img_size": 80}))
    vitrim.reduce_tokens(model, method_for(name, **settings))
    if isinstance(vitrim.method_of(model), PredictedMethod):
        model.eval()  # in training it draws at random which patches stay
    first = next(block for block in model.blocks if block.acting.method.is_active(block.layer, P))
    x_BNC, parts = torch.randn(2, P + 1, C), [torch.randn(2, H, P + 1, C // H).bfloat16() for _ in range(3)]
    weight_C = torch.randn(C)

    mixed, mixed_gradient = _reduced(first, x_BNC, parts, weight_C, autocast=True)
    wide = [part.double() for part in parts]
    exact, exact_gradient = _reduced(first.double(), x_BNC.double(), wide, weight_C, autocast=False)

    assert mixed.dtype == torch.float32
    # A learned layer runs in bf16 there, as every other of the model does.
    tolerance = 2e-3 if settings.get("inattentive") == "conv" else 1e-6
    for mine, right in ((mixed, exact), (mixed_gradient, exact_gradient)):
        assert ((mine - right).norm() / right.norm()).item() < tolerance


def _reduced(
    block: Any, x_BNC: Tensor, parts: list[Tensor], weight_C: Tensor, *, autocast: bool
) -> tuple[Tensor, Tensor]:
    """What the method of that block makes of the tokens, and the gradient of a sum over it."""
    x_BNC = x_BNC.clone().requires_grad_()
    method, layer = block.acting.bound, block.layer
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        tokens = method.before_block(layer, Tokens(x_BNC, 1))
        attention = Attention(*parts, scale=(C // H) ** -0.5, input_BNC=x_BNC, mlp_input_BNC=x_BNC)
        out = method.after_attention(layer, tokens, attention).padded_BNC
    (out * weight_C.to(out.dtype)).sum().backward()
    assert x_BNC.grad is not None
    return out.detach(), x_BNC.grad
