"""The blocks of transformers' Vision Transformers: what they have in common, and how each library class names it."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from ..core.attention import Attention
from ..core.block_reader import MASKED, BlockReader, Step
from ..core.rotary import Rotation
from ..core.tokens import Tokens

CAPTURES = ("output_hidden_states", "output_attentions")


class LayerReader(BlockReader):
    """x + dropout(attention(norm(x))), then x + dropout(mlp(norm(x))), under the names that a library class has."""

    shared = ("gradient_checkpointing", "_gradient_checkpointing_func")

    def __init__(self, attention: str, norms: tuple[str, str], projection: str = "o_proj"):
        self.attention_name, self.norms, self.projection = attention, norms, projection

    def attention(self, block: Any, x_BNC: Tensor) -> Attention:
        attention, x = getattr(block, self.attention_name), getattr(block, self.norms[0])(x_BNC)
        q, k, v = (
            projection(x).unflatten(2, (-1, attention.head_dim)).transpose(1, 2)
            for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        scale, dropout = _attention_settings(attention)
        return Attention(q, k, v, scale, dropout=dropout if attention.training else 0.0)

    def add_attention(self, block: Any, x_BNC: Tensor, mixed_BHND: Tensor) -> Tensor:
        project = getattr(getattr(block, self.attention_name), self.projection)
        return x_BNC + self.branch(block, 1, project(mixed_BHND.transpose(1, 2).flatten(2)))

    def add_mlp(self, block: Any, x_BNC: Tensor) -> Tensor:
        return x_BNC + self.branch(block, 2, block.mlp(getattr(block, self.norms[1])(x_BNC)))

    def branch(self, block: Any, number: int, x_BNC: Tensor) -> Tensor:
        """What a residual branch ends with."""
        return x_BNC

    def understands(self, block: Any) -> bool:
        """Whether the block has the parts that are read."""
        attention = getattr(block, self.attention_name, None)
        parts = (*self.norms, "mlp")
        return all(hasattr(block, part) for part in parts) and hasattr(attention, "q_proj")

    def check_call(self, attention_mask: Any = None, *_: Any, **kwargs: Any) -> None:
        refuse_captured(kwargs)
        # While it is compiled or exported, the library makes a mask that hides nothing; the guard has seen the user's.
        if (attention_mask is not None and not torch.compiler.is_compiling()) or kwargs.get("is_causal"):
            raise ValueError(MASKED)

    def run(self, block: Any, step: Step, tokens: Tokens, rotation: Rotation | None) -> Tokens:
        if not (block.gradient_checkpointing and block.training):
            return step(tokens, rotation)
        out = block._gradient_checkpointing_func(step, tokens, rotation)
        if not isinstance(out, Tokens):
            raise ValueError("reentrant checkpointing takes tokens apart: checkpoint with use_reentrant=False.")
        return out

    def plain(self, block: Any, x_BNC: Tensor, **beside: Any) -> Tensor:
        attention = getattr(block, self.attention_name)
        attention.config = copy.copy(attention.config)  # the block is a copy that shares it
        attention.config._attn_implementation = "eager"  # runs everywhere, in fp32
        out: Tensor = block(x_BNC, None, **beside)
        return out


class DropoutReader(LayerReader):
    """ViT and DeiT."""

    def branch(self, block: Any, number: int, x_BNC: Tensor) -> Tensor:
        out: Tensor = block.dropout(x_BNC)
        return out


class ScaleReader(LayerReader):
    """DINOv2 and DINOv3."""

    def branch(self, block: Any, number: int, x_BNC: Tensor) -> Tensor:
        out: Tensor = block.drop_path((block.layer_scale1 if number == 1 else block.layer_scale2)(x_BNC))
        return out


class RotaryReader(ScaleReader):
    """DINOv3, whose blocks are handed cosines and sines, [P, D] each; the prefix is not turned."""

    def rotation(self, _: Any = None, position_embeddings: Any = None, **__: Any) -> Rotation:
        cos, sin = position_embeddings
        return Rotation(torch.cat([cos, sin], dim=-1), cos_first=True)

    def turn(self, block: Any, attention: Attention, rows: Tensor) -> Attention:
        from transformers.models.dinov3_vit.modeling_dinov3_vit import apply_rotary_pos_emb

        q, k = apply_rotary_pos_emb(attention.q_BHND, attention.k_BHND, *rows.chunk(2, dim=-1))
        return attention._replace(q_BHND=q, k_BHND=k)

    def example(self, block: Any, num_patches: int, generator: torch.Generator) -> dict[str, Any]:
        shape = (num_patches, block.attention.head_dim)
        return {"position_embeddings": tuple(torch.randn(shape, generator=generator) for _ in range(2))}


VIT = DropoutReader("attention", ("layernorm_before", "layernorm_after"))
DINO = ScaleReader("attention", ("norm1", "norm2"))
DINO_ROTARY = RotaryReader("attention", ("norm1", "norm2"))
CLIP = LayerReader("self_attn", ("layer_norm1", "layer_norm2"), "out_proj")


def refuse_captured(kwargs: dict[str, Any]) -> None:
    """ValueError if what blocks or attentions return is asked for."""
    wanted = [name for name in CAPTURES if kwargs.get(name)]
    if wanted:
        raise ValueError(
            f"{wanted[0]} does not work while tokens are reduced: they have left the patch grid, and attention "
            "matrices are never formed; vitrim.features(model, images) gives maps on the patch grid, and "
            "vitrim.trace(model) where each patch went; or restore(model) first."
        )


def _attention_settings(attention: Any) -> tuple[float, float]:
    """Scale of the logits, and dropout of the matrix; CLIP, SigLIP and DINOv3 call them otherwise."""
    scale = attention.scaling if hasattr(attention, "scaling") else attention.scale
    return scale, attention.attention_dropout if hasattr(attention, "attention_dropout") else attention.dropout
