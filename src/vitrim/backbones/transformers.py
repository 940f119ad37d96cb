"""transformers' ViT, DeiT, DINOv2 (with registers too), and the vision towers of CLIP and SigLIP.

Pass the whole model, not its inner one: only then is known whether its head averages the patch tokens. Written for
the blocks of transformers 5.20 to 5.23. Classes are told by name: whoever has such a model has imported them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..core.attention import Attention
from ..core.block_reader import MASKED, BlockReader
from ..core.method import ViTSpec
from ..core.tokens import Tokens
from .reader import Backbone, Place, UnsupportedModel, linear_macs, version

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

    def check_call(self, attention_mask: Any = None, **kwargs: Any) -> None:
        _refuse_captures(kwargs)
        # While it is compiled or exported, the library makes a mask that hides nothing; the guard has seen the user's.
        if (attention_mask is not None and not torch.compiler.is_compiling()) or kwargs.get("is_causal"):
            raise ValueError(MASKED)

    def run(self, block: Any, step: Callable[[Tokens], Tokens], tokens: Tokens) -> Tokens:
        if not (block.gradient_checkpointing and block.training):
            return step(tokens)
        out = block._gradient_checkpointing_func(step, tokens)
        if not isinstance(out, Tokens):
            raise ValueError("reentrant checkpointing takes tokens apart: checkpoint with use_reentrant=False.")
        return out

    def plain(self, block: Any, x_BNC: Tensor) -> Tensor:
        getattr(block, self.attention_name).config._attn_implementation = "eager"  # of a copy: runs everywhere, in fp32
        out: Tensor = block(x_BNC, None)
        return out


class DropoutReader(LayerReader):
    """ViT and DeiT."""

    def branch(self, block: Any, number: int, x_BNC: Tensor) -> Tensor:
        out: Tensor = block.dropout(x_BNC)
        return out


class ScaleReader(LayerReader):
    """DINOv2."""

    def branch(self, block: Any, number: int, x_BNC: Tensor) -> Tensor:
        out: Tensor = block.drop_path((block.layer_scale1 if number == 1 else block.layer_scale2)(x_BNC))
        return out


class Tower(NamedTuple):
    """A class of models that runs the blocks."""

    layers: tuple[str, str]  # the module that holds the list of blocks, "" for the tower itself, and the list
    block: str  # class of the blocks
    reader: LayerReader
    num_prefix: int  # registers not counted
    pools: bool = False


VIT = DropoutReader("attention", ("layernorm_before", "layernorm_after"))
DINO = ScaleReader("attention", ("norm1", "norm2"))
CLIP = LayerReader("self_attn", ("layer_norm1", "layer_norm2"), "out_proj")
TOWERS = {
    "ViTModel": Tower(("", "layers"), "ViTLayer", VIT, 1),
    "DeiTModel": Tower(("", "layers"), "DeiTLayer", VIT, 2),
    "Dinov2Model": Tower(("encoder", "layer"), "Dinov2Layer", DINO, 1),
    "Dinov2WithRegistersModel": Tower(("encoder", "layer"), "Dinov2WithRegistersLayer", DINO, 1),
    "CLIPVisionModel": Tower(("encoder", "layers"), "CLIPEncoderLayer", CLIP, 1),
    "SiglipVisionModel": Tower(("encoder", "layers"), "SiglipEncoderLayer", CLIP, 0, pools=True),
}
HEADS = {  # class -> where it has the tower, and whether its head averages the patch tokens
    "ViTForImageClassification": ("vit", False),
    "DeiTForImageClassification": ("deit", False),
    "DeiTForImageClassificationWithTeacher": ("deit", False),
    "Dinov2ForImageClassification": ("dinov2", True),
    "Dinov2WithRegistersForImageClassification": ("dinov2_with_registers", True),
    "CLIPModel": ("vision_model", False),
    "CLIPVisionModelWithProjection": ("vision_model", False),
    "CLIPForImageClassification": ("vision_model", True),
    "SiglipModel": ("vision_model", True),
    "SiglipForImageClassification": ("vision_model", True),
}
REASONS = {  # part of a class's name -> why it is refused
    "Beit": "its attention adds a bias by relative position, which does not move with the tokens",
    "DINOv3ViT": "its attention turns queries and keys by the patches' positions, which do not move with the tokens",
    "ForMaskedImageModeling": "it puts the patches back on their grid, which reduced tokens have left",
    "Backbone": "it returns maps on the patch grid, which reduced tokens have left",
    "TextModel": "a text tower stays as it is",
    "TimmWrapper": "pass the model of timm that is inside, reduce_tokens(model.timm_model, ...)",
}


class Found(NamedTuple):
    """The tower inside a model."""

    module: Any
    tower: Tower
    pools: bool
    classifies: bool

    def place(self) -> Place | None:
        """Where its blocks are; None if this version of the library has them elsewhere."""
        inside, attribute = self.tower.layers
        parent: Any = getattr(self.module, inside, None) if inside else self.module
        if not isinstance(getattr(parent, attribute, None), nn.Module):
            return None
        inner = [] if parent is self.module else [(parent, refuse_captures)]
        return Place(parent, attribute, guards=[(self.module, refuse_mask), (self.module, refuse_captures), *inner])


def place(model: nn.Module) -> Place | None:
    """Where the model keeps its blocks; None if it is none that is read."""
    found = _find(model)
    return None if found is None else found.place()


def read(model: Any) -> Backbone:
    """The backbone of a model of transformers; UnsupportedModel if it is none of those in `TOWERS` and `HEADS`."""
    found, name = _find(model), type(model).__name__
    if found is None:
        reason = next((f": {why}" for what, why in REASONS.items() if what in name), "")
        raise UnsupportedModel(
            f"{name} cannot be read{reason}. Of transformers' models, vitrim reads ViT, DeiT, DINOv2, and the vision "
            f"towers of CLIP and SigLIP, as version 5.20 to 5.23 has them; {version('transformers')} is installed."
        )
    tower, where = found.tower, found.place()
    blocks: list[Any] = [] if where is None else list(getattr(where.parent, where.attribute))
    if where is None or not all(type(b).__name__ == tower.block and tower.reader.understands(b) for b in blocks):
        raise UnsupportedModel(
            f"{name}: its blocks are not the {tower.block} that vitrim reads, which is that of transformers 5.20 to "
            f"5.23; {version('transformers')} is installed."
        )
    config, attention = found.module.config, getattr(blocks[0], tower.reader.attention_name)
    embeddings = found.module.embeddings
    num_prefix = tower.num_prefix + getattr(config, "num_register_tokens", 0)
    spec = ViTSpec(
        name=getattr(model.config, "_name_or_path", "") or name,
        depth=len(blocks),
        num_prefix=num_prefix,
        has_cls=num_prefix > 0,
        pools_patches=found.pools,
        num_patches=getattr(embeddings, "patch_embeddings", embeddings).num_patches,
        channels=config.hidden_size,
        num_heads=attention.q_proj.out_features // attention.head_dim,
        attention_channels=attention.q_proj.out_features,
        attention_macs=linear_macs(attention),
        mlp_macs=linear_macs(blocks[0].mlp),
        num_classes=model.config.num_labels if found.classifies else 0,
    )
    return Backbone("transformers", where, getattr(where.parent, where.attribute), [tower.reader] * len(blocks), spec)


def refuse_captures(module: nn.Module, _: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Before transformers sets out to record what blocks and attentions return, by argument or by config."""
    config = getattr(module, "config", None)
    _refuse_captures({name: kwargs.get(name, getattr(config, name, False)) for name in CAPTURES})


def refuse_mask(_: nn.Module, __: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Before the library makes a mask of its own."""
    if kwargs.get("attention_mask") is not None:
        raise ValueError(MASKED)


def _refuse_captures(kwargs: dict[str, Any]) -> None:
    wanted = [name for name in CAPTURES if kwargs.get(name)]
    if wanted:
        raise ValueError(
            f"{wanted[0]} does not work while tokens are reduced: they have left the patch grid, and attention "
            "matrices are never formed; use vitrim.trace(model), or restore(model) first."
        )


def _find(model: nn.Module) -> Found | None:
    """The nearest class of transformers among the model's decides."""
    cls = next(cls for cls in type(model).__mro__ if cls.__module__.partition(".")[0] == "transformers")
    if cls.__name__ in TOWERS:
        tower = TOWERS[cls.__name__]
        return Found(model, tower, tower.pools, classifies=False)
    if cls.__name__ not in HEADS:
        return None
    attribute, averages = HEADS[cls.__name__]
    inner: Any = getattr(model, attribute)
    found = _find(inner)
    classifies = "ForImageClassification" in cls.__name__
    return found and found._replace(pools=found.pools or averages, classifies=classifies)


def _attention_settings(attention: Any) -> tuple[float, float]:
    """Scale of the logits, and dropout of the matrix; CLIP and SigLIP call them otherwise."""
    if hasattr(attention, "scaling"):
        return attention.scaling, attention.attention_dropout
    return attention.scale, attention.dropout
