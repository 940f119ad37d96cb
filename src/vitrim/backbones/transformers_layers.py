"""The blocks of transformers' Vision Transformers: what they share, and the names in each class."""

from __future__ import annotations

import inspect
import sys
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, eager_mask

from ..core.attention import Attention
from ..core.block_reader import MASKED, BlockReader, Step, own_forward
from ..core.rotary import Rotation
from ..core.tokens import Tokens
from .reader import UnsupportedModel

READ = ("sdpa", "eager", None)  # attn_implementation; None is eager
CAPTURES = ("output_hidden_states", "output_attentions")


class LayerReader(BlockReader):
    """x + dropout(attention(norm(x))), then x + dropout(mlp(norm(x))), with the names of one library class."""

    pairs = True

    def __init__(self, attention: str, norms: tuple[str, str], projection: str = "o_proj"):
        self.attention_name, self.norms, self.projection = attention, norms, projection

    def enter(self, block: Any, x_BNC: Tensor) -> Tensor:
        return getattr(block, self.norms[0])(x_BNC)

    def attention(self, block: Any, x_BNC: Tensor) -> Attention:
        attention = getattr(block, self.attention_name)
        q, k, v = (
            projection(x_BNC).unflatten(2, (-1, attention.head_dim)).transpose(1, 2)
            for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        scale, dropout = _attention_settings(attention)
        return Attention(q, k, v, scale, dropout=dropout if attention.training else 0.0)

    def leave(self, block: Any, mixed_BHND: Tensor) -> Tensor:
        out: Tensor = getattr(getattr(block, self.attention_name), self.projection)(
            mixed_BHND.transpose(1, 2).flatten(2)
        )
        return out

    def add_attention(self, block: Any, x_BNC: Tensor, out_BNC: Tensor) -> Tensor:
        return x_BNC + self.branch(block, 1, out_BNC)

    def add_mlp(self, block: Any, x_BNC: Tensor) -> Tensor:
        return x_BNC + self.branch(block, 2, block.mlp(getattr(block, self.norms[1])(x_BNC)))

    def branch(self, block: Any, number: int, x_BNC: Tensor) -> Tensor:
        """The end of a residual branch."""
        return x_BNC

    def understands(self, block: Any, name: str) -> bool:
        """Whether it is the library's block of that name, with the library's attention and the expected parts."""
        attention = getattr(block, self.attention_name, None)
        homes = {type(part).__module__ for part in (block, attention)}
        own = type(block).__name__ == name and len(homes) == 1 and homes.pop().startswith("transformers.")
        return own and all(hasattr(block, part) for part in (*self.norms, "mlp")) and hasattr(attention, "q_proj")

    def is_exact(self, block: Any) -> bool:
        return bool(getattr(block, self.attention_name).config._attn_implementation == "sdpa")

    def check_call(self, attention_mask: Any = None, *_: Any, **kwargs: Any) -> None:
        refuse_captured(kwargs)
        # A compiled model gets a mask that hides nothing. The guard has checked the user's mask.
        if (attention_mask is not None and not torch.compiler.is_compiling()) or kwargs.get("is_causal"):
            raise ValueError(MASKED)

    def run(self, block: Any, step: Step, tokens: Tokens, rotation: Rotation | None) -> Tokens:
        refuse_foreign(getattr(block, self.attention_name))
        if not (block.gradient_checkpointing and block.training):
            return step(tokens, rotation)
        out = block._gradient_checkpointing_func(step, tokens, rotation)
        if not isinstance(out, Tokens):
            raise ValueError("reentrant checkpointing splits tokens into tensors: set use_reentrant=False.")
        return out

    def own_output(self, block: Any, x_BNC: Tensor, rotation: Rotation | None = None) -> Tensor:
        # Unwrapped, because newer versions checkpoint in a wrapper, which `run` already does.
        forward = own_forward(block)
        bare = inspect.unwrap(forward)
        return (forward if bare is forward else partial(bare, block))(x_BNC, None, **self.beside(rotation))

    def beside(self, rotation: Rotation | None) -> dict[str, Any]:
        """The arguments by which the library passes a rotary table to a block."""
        return {}


class DropoutReader(LayerReader):
    """ViT and DeiT."""

    def branch(self, block: Any, number: int, x_BNC: Tensor) -> Tensor:
        return block.dropout(x_BNC)


class ScaleReader(LayerReader):
    """DINOv2 and DINOv3."""

    def branch(self, block: Any, number: int, x_BNC: Tensor) -> Tensor:
        return block.drop_path((block.layer_scale1 if number == 1 else block.layer_scale2)(x_BNC))


class RotaryReader(ScaleReader):
    """DINOv3, whose blocks get cosines and sines, [P, D] each. The prefix is not rotated."""

    def rotation(self, _: Any = None, position_embeddings: Any = None, **__: Any) -> Rotation:
        cos, sin = position_embeddings
        return Rotation(torch.cat([cos, sin], dim=-1), cos_first=True)

    def beside(self, rotation: Rotation | None) -> dict[str, Any]:
        assert rotation is not None
        return {"position_embeddings": rotation.table.chunk(2, dim=-1)}

    def apply_rope(self, block: Any, attention: Attention, rows: Tensor) -> Attention:
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
    """ValueError if outputs of blocks or attentions are requested."""
    wanted = [name for name in CAPTURES if kwargs.get(name)]
    if wanted:
        raise ValueError(
            f"{wanted[0]} does not work while tokens are reduced: they are not on the patch grid, and attention "
            "matrices are never formed. Use vitrim.features(model, images) for maps on the grid, vitrim.trace(model) "
            "for the token of each patch, or restore(model) first."
        )


def refuse_foreign(attention: Any) -> None:
    """UnsupportedModel if the attention uses a function that is not the library's own."""
    name = attention.config._attn_implementation
    if not _is_read(type(attention), name):
        raise UnsupportedModel(
            f"a reduced model does not call attn_implementation {name!r}: vitrim reads transformers' own 'sdpa' and "
            "'eager' only. Call model.set_attn_implementation('sdpa') first, or restore(model) to run yours."
        )


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _is_read(attention: type, name: str | None) -> bool:
    """Whether this name stands for the library's own functions, for the attention and its mask."""
    if name not in READ:
        return False
    home = sys.modules[attention.__module__]
    function = home.ALL_ATTENTION_FUNCTIONS.get(name, home.eager_attention_forward)
    mask = ALL_MASK_ATTENTION_FUNCTIONS.get(name, eager_mask)
    homes = ("transformers.integrations.sdpa_attention", home.__name__, "transformers.masking_utils")
    return all(each.__module__ in homes and not hasattr(each, "__wrapped__") for each in (function, mask))


def _attention_settings(attention: Any) -> tuple[float, float]:
    """Scale of the logits, and dropout of the attention, whose names differ between models."""
    scale = attention.scaling if hasattr(attention, "scaling") else attention.scale
    return scale, attention.attention_dropout if hasattr(attention, "attention_dropout") else attention.dropout
