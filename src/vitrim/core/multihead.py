"""How to read torch's own nn.MultiheadAttention, on which torchvision and open_clip build their blocks.

Here packed projections run on [B, N, C], and attention in the fused kernel. The module itself runs on [N, B, C], or at
inference in a kernel that forms the full attention matrix on a CPU. All of these differ in the last bits. So readers of
this module are not exact, and a block that reduces nothing runs its own forward.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from .attention import Attention
from .block_reader import BlockReader


class MultiheadReader(BlockReader):
    """Reads blocks with this attention behind a norm called ln_1."""

    inputs, pairs = 3, True

    def is_exact(self, block: Any) -> bool:
        return False

    def enter(self, block: Any, x_BNC: Tensor) -> Tensor:
        return block.ln_1(x_BNC)

    def attention(self, block: Any, x_BNC: Tensor) -> Attention:
        module: nn.MultiheadAttention = getattr(block, self.attention_name)
        if type(module).forward is not nn.MultiheadAttention.forward:
            raise ValueError(
                f"an attention became a {type(module).__module__}.{type(module).__name__} after reduce_tokens, which "
                "does not call it: restore(model) first, or merge it into torch's nn.MultiheadAttention."
            )
        B, N, _ = x_BNC.shape
        packed = F.linear(x_BNC, module.in_proj_weight, module.in_proj_bias)
        q, k, v = packed.reshape(B, N, 3, module.num_heads, module.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
        return Attention(q, k, v, module.head_dim**-0.5, dropout=module.dropout if module.training else 0.0)

    def leave(self, block: Any, mixed_BHND: Tensor) -> Tensor:
        # The module uses the weight too, and not the layer, so an adapter around the layer changes neither.
        out_proj = getattr(block, self.attention_name).out_proj
        return F.linear(mixed_BHND.transpose(1, 2).flatten(2), out_proj.weight, out_proj.bias)


def multihead_macs(module: nn.MultiheadAttention) -> int:
    """Multiply-adds per token of the projections."""
    return module.in_proj_weight.numel() + module.out_proj.weight.numel()


def why_unreadable(module: nn.Module) -> str | None:
    """The reason why an attention cannot be read, for an error; None if it can."""
    if type(module) is not nn.MultiheadAttention:
        return f"its attention is a {type(module).__name__}, not torch's nn.MultiheadAttention"
    if not module.batch_first:
        return "its tokens come before the batch (batch_first=False)"
    if not module._qkv_same_embed_dim or module.bias_k is not None or module.add_zero_attn:
        return "its attention uses kdim, vdim, add_bias_kv or add_zero_attn"
    return None
