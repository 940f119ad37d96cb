"""transformers' Vision Transformers: ViT, DeiT, DINOv2, DINOv3 and similar, and the towers of CLIP and SigLIP.

Pass the whole model and not its inner one, because only the head shows whether patch tokens are averaged. Written for
transformers 5.20 to 5.23, whose blocks transformers_layers.py reads. Classes are found by name, so nothing is imported.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import nn

from ..core.block_reader import MASKED
from ..core.spec import ViTSpec
from ..heads import num_classes
from .reader import Backbone, BlocksLocation, UnsupportedModel, blocks_in, linear_macs, version
from .transformers_layers import (
    CAPTURES,
    CLIP,
    DINO,
    DINO_ROTARY,
    VIT,
    LayerReader,
    refuse_captured,
    refuse_foreign,
)


class Tower(NamedTuple):
    """A model class that runs the blocks."""

    layers: tuple[str, str]  # the module with the list of blocks ("" for the tower itself), and the list
    block: str  # class of the blocks
    reader: LayerReader
    num_prefix: int  # without registers
    pools: bool = False


TOWERS = {
    "ViTModel": Tower(("", "layers"), "ViTLayer", VIT, 1),
    "DeiTModel": Tower(("", "layers"), "DeiTLayer", VIT, 2),
    "Dinov2Model": Tower(("encoder", "layer"), "Dinov2Layer", DINO, 1),
    "Dinov2WithRegistersModel": Tower(("encoder", "layer"), "Dinov2WithRegistersLayer", DINO, 1),
    "DINOv3ViTModel": Tower(("model", "layer"), "DINOv3ViTLayer", DINO_ROTARY, 1),
    "CLIPVisionModel": Tower(("encoder", "layers"), "CLIPEncoderLayer", CLIP, 1),
    "ViTMSNModel": Tower(("", "layers"), "ViTMSNLayer", VIT, 1),
    "IJepaModel": Tower(("", "layers"), "IJepaLayer", VIT, 0),
    "Tipsv2VisionModel": Tower(("encoder", "layer"), "Tipsv2VisionLayer", DINO, 1),
    "MetaClip2VisionModel": Tower(("encoder", "layers"), "MetaClip2EncoderLayer", CLIP, 1),
    "ChineseCLIPVisionModel": Tower(("encoder", "layers"), "ChineseCLIPVisionLayer", CLIP, 1),
    "AltCLIPVisionModel": Tower(("encoder", "layers"), "AltCLIPEncoderLayer", CLIP, 1),
    "SiglipVisionModel": Tower(("encoder", "layers"), "SiglipEncoderLayer", CLIP, 0, pools=True),
}
HEADS = {  # class -> its tower, and whether its head averages the patch tokens
    "ViTForImageClassification": ("vit", False),
    "DeiTForImageClassification": ("deit", False),
    "DeiTForImageClassificationWithTeacher": ("deit", False),
    "Dinov2ForImageClassification": ("dinov2", True),
    "Dinov2WithRegistersForImageClassification": ("dinov2_with_registers", True),
    "ViTMSNForImageClassification": ("vit", False),
    "IJepaForImageClassification": ("ijepa", True),
    "CLIPModel": ("vision_model", False),
    "CLIPVisionModelWithProjection": ("vision_model", False),
    "CLIPForImageClassification": ("vision_model", True),
    "MetaClip2Model": ("vision_model", False),
    "MetaClip2VisionModelWithProjection": ("vision_model", False),
    "MetaClip2ForImageClassification": ("vision_model", True),
    "ChineseCLIPModel": ("vision_model", False),
    "AltCLIPModel": ("vision_model", False),
    "SiglipModel": ("vision_model", True),
    "SiglipForImageClassification": ("vision_model", True),
}
REASONS = {  # part of a class's name -> the reason for refusing it
    "Beit": "its attention adds a bias by relative position, which does not follow the tokens",
    "Data2VecVision": "its attention adds a bias by relative position, which does not follow the tokens",
    "Siglip2": "it uses masks, for batches of images of different shapes",
    "ForMaskedImageModeling": "it needs all patches on their grid",
    "Backbone": "it returns maps on the patch grid",
    "TextModel": "a text tower cannot be reduced",
    "TimmWrapper": "pass the timm model inside, reduce_tokens(model.timm_model, ...)",
}


class Found(NamedTuple):
    """The tower inside a model."""

    module: Any
    tower: Tower
    pools: bool

    def locate(self) -> BlocksLocation | None:
        """Where its blocks are; None if this version of the library has them elsewhere."""
        inside, attribute = self.tower.layers
        parent: Any = getattr(self.module, inside, None) if inside else self.module
        if not isinstance(getattr(parent, attribute, None), nn.Module):
            return None
        inner = [] if parent is self.module else [(parent, refuse_captures)]
        return BlocksLocation(
            parent, attribute, guards=[(self.module, refuse_mask), (self.module, refuse_captures), *inner]
        )


def locate(model: nn.Module) -> BlocksLocation | None:
    """Where the model keeps its blocks; None if it cannot be read."""
    found = _find(model)
    return None if found is None else found.locate()


def read(model: Any) -> Backbone:
    """The backbone of a transformers model. UnsupportedModel if it is not in `TOWERS` or `HEADS`."""
    found, name = _find(model), type(model).__name__
    if found is None:
        reason = next((f": {why}" for what, why in REASONS.items() if what in name), "")
        raise UnsupportedModel(
            f"{name} cannot be read{reason}. Of transformers' models, vitrim reads ViT, ViT-MSN, I-JEPA, DeiT, "
            "DINOv2, DINOv3, TIPSv2, and the vision towers of CLIP, AltCLIP, Chinese CLIP, "
            f"MetaCLIP 2 and SigLIP, of versions 5.20 to 5.23. {version('transformers')} is installed."
        )
    tower, where = found.tower, found.locate()
    if where is None:
        raise UnsupportedModel(_unlike(name, "its blocks are not", tower.block))
    blocks = blocks_in(getattr(where.parent, where.attribute))
    for i, block in enumerate(blocks):
        if not tower.reader.understands(block, tower.block):
            attention = type(getattr(block, tower.reader.attention_name, None)).__name__
            what = f"block {i} is a {type(block).__name__} with a {attention}, not"
            raise UnsupportedModel(_unlike(name, what, tower.block))
        refuse_foreign(getattr(block, tower.reader.attention_name))
    config, attention = found.module.config, getattr(blocks[0], tower.reader.attention_name)
    num_prefix, classes = tower.num_prefix + getattr(config, "num_register_tokens", 0), num_classes(model) or 0
    spec = ViTSpec(
        name=getattr(model.config, "_name_or_path", "") or name,
        depth=len(blocks),
        num_prefix=num_prefix,
        has_cls=num_prefix > 0,
        pools_patches=found.pools or classes == 0,
        num_patches=_num_patches(found.module, getattr(model, "image_preparation", None)),
        channels=config.hidden_size,
        num_heads=attention.q_proj.out_features // attention.head_dim,
        attention_channels=attention.q_proj.out_features,
        attention_macs=linear_macs(attention),
        mlp_macs=linear_macs(blocks[0].mlp),
        num_classes=classes,
    )
    return Backbone("transformers", where, getattr(where.parent, where.attribute), [tower.reader] * len(blocks), spec)


def refuse_captures(module: nn.Module, _: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Refuse to record outputs of blocks and attentions, by argument or by config."""
    config = getattr(module, "config", None)
    refuse_captured({name: kwargs.get(name, getattr(config, name, False)) for name in CAPTURES})


def refuse_mask(_: nn.Module, __: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Refuse a mask before the library changes it."""
    if kwargs.get("attention_mask") is not None:
        raise ValueError(MASKED)


def _find(model: nn.Module) -> Found | None:
    """The tower of a model, by its nearest base class in transformers."""
    cls = next(cls for cls in type(model).__mro__ if cls.__module__.partition(".")[0] == "transformers")
    if cls.__name__ in TOWERS:
        tower = TOWERS[cls.__name__]
        return Found(model, tower, tower.pools)
    if cls.__name__ not in HEADS:
        return None
    attribute, averages = HEADS[cls.__name__]
    inner: Any = getattr(model, attribute)
    found = _find(inner)
    return found and found._replace(pools=found.pools or averages)


def _unlike(name: str, what: str, block: str) -> str:
    return (
        f"{name}: {what} the {block} of transformers 5.20 to 5.23, which vitrim reads. "
        f"{version('transformers')} is installed."
    )


def _num_patches(module: Any, preparation: Any) -> int:
    """Patches at the resolution of its image preparation, or else at that of the tower."""
    if preparation is not None:
        _, height, width = preparation.input_size
        return int((height // module.config.patch_size) * (width // module.config.patch_size))
    rope = getattr(module, "rope_embeddings", None)
    if rope is not None:
        return int(rope.num_patches_h * rope.num_patches_w)
    return int(getattr(module.embeddings, "patch_embeddings", module.embeddings).num_patches)
