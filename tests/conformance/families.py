"""Small models of every family that vitrim reads, and the settings under which each method runs on all of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from timm.layers import SwiGLUPacked
from timm.models.deit import VisionTransformerDistilled
from timm.models.eva import Eva
from timm.models.vision_transformer import ResPostBlock, VisionTransformer
from torch import Tensor, nn

import vitrim
from copies import copies_of
from every_method import PLAIN, amount, neutral
from vitrim.backbones.reader import read_backbone

DEPTH = 5  # the default layers are 1, 2 and 3: a block before, and one after
SMALL = {"img_size": 32, "patch_size": 4, "embed_dim": 48, "depth": DEPTH, "num_heads": 3, "num_classes": 10}
DINOV3 = {
    "attn_type": "rope",
    "use_rot_pos_emb": True,
    "rope_type": "dinov3",
    "rope_rotate_half": True,
    "use_abs_pos_emb": False,
    "qkv_bias": False,
}

FAMILIES: dict[str, Callable[[], Any]] = {
    "vit": lambda: VisionTransformer(**SMALL),
    "deit_distilled": lambda: VisionTransformerDistilled(**SMALL),
    "deit3": lambda: _trained_scales(VisionTransformer(**SMALL, init_values=1e-5, no_embed_class=True)),
    "dinov2_registers": lambda: VisionTransformer(**SMALL, init_values=1e-5, reg_tokens=4, no_embed_class=True),
    "dinov2_swiglu_odd": lambda: VisionTransformer(
        **(SMALL | {"img_size": 70, "patch_size": 14, "mlp_ratio": 16 / 3}),  # 25 patches
        init_values=1e-5,
        reg_tokens=4,
        mlp_layer=SwiGLUPacked,
        act_layer=nn.SiLU,
    ),
    "clip": lambda: VisionTransformer(**SMALL, pre_norm=True, act_layer="quick_gelu", norm_layer=nn.LayerNorm),
    "siglip": lambda: VisionTransformer(**SMALL, class_token=False, global_pool="map"),
    "register_gap": lambda: VisionTransformer(
        **SMALL, class_token=False, reg_tokens=4, no_embed_class=True, global_pool="avg"
    ),
    "gap": lambda: VisionTransformer(**SMALL, class_token=False, global_pool="avg"),
    "cls_gap": lambda: VisionTransformer(**SMALL, global_pool="avg"),
    "qk_norm": lambda: VisionTransformer(**SMALL, qk_norm=True),
    "inner_norms": lambda: VisionTransformer(**SMALL, scale_attn_norm=True, scale_mlp_norm=True),
    "dynamic_size": lambda: VisionTransformer(**SMALL, dynamic_img_size=True),
    "post_norm": lambda: VisionTransformer(**SMALL, block_fn=ResPostBlock, init_values=0.5),
    "dinov3": lambda: Eva(**SMALL, **DINOV3, num_reg_tokens=4, init_values=1e-5, global_pool="avg"),
    "eva02": lambda: Eva(
        **SMALL,
        use_rot_pos_emb=True,
        ref_feat_shape=(4, 4),
        qkv_fused=False,
        swiglu_mlp=True,
        scale_mlp=True,
        scale_attn_inner=True,
        global_pool="token",
    ),
    "rope_mixed": lambda: Eva(  # tables that are learned, one for each block and head
        **SMALL, use_rot_pos_emb=True, rope_type="mixed", attn_type="rope", no_embed_class=True, global_pool="token"
    ),
}
NO_CLASS_TOKEN = ("siglip", "register_gap", "gap")


def learns(method: vitrim.Method) -> bool:
    """Whether it has weights in a block of a small model."""
    spec = read_backbone(VisionTransformer(**SMALL)).spec
    built = method.built_for(spec)
    return any(built.learned_in(layer, spec) is not None for layer in range(DEPTH))


VARIANTS = {f"bat-{what}": ("beyond_attentive", {"inattentive": what}) for what in ("conv", "mlp")}
METHODS = {
    name: vitrim.create_method(plain, **amount(plain, per_block=3), **more)
    for name, (plain, more) in ({name: (name, {}) for name in PLAIN} | VARIANTS).items()
}
BY_POSITION = tuple(name for name, method in METHODS.items() if method.by_position)
NEEDS_CLASS_TOKEN = tuple(name for name, method in PLAIN.items() if method.exits is not None)
SCORED_BY_CLASS_TOKEN = tuple(  # unless told otherwise
    name for name, method in PLAIN.items() if getattr(method, "scorer", "") == "cls" and name not in NEEDS_CLASS_TOKEN
)
LEARNING = tuple(name for name, method in METHODS.items() if learns(method))  # methods with weights of their own
CASES = [
    *(
        (family, method)
        for family in FAMILIES
        for method in vitrim.list_methods()
        if family not in NO_CLASS_TOKEN or method not in NEEDS_CLASS_TOKEN
    ),
    *((family, variant) for family in ("vit", "register_gap") for variant in VARIANTS),
]
# For what does not depend on the pairing: every method on two families, and every family with two methods.
COVERING = [case for case in CASES if case[0] in ("vit", "register_gap") or case[1] in ("evit", "tome")]


def small_model(family: str) -> Any:
    """A model of the family in eval mode, with weights that make attention far from uniform."""
    return _copies(family)()


def small_images(family: str, num_images: int = 2) -> Tensor:
    """Images for it; for dynamic_size not of the resolution that it was built for."""
    height, width = {"dinov2_swiglu_odd": (70, 70), "dynamic_size": (24, 40)}.get(family, (32, 32))
    return torch.randn(num_images, 3, height, width, generator=torch.Generator().manual_seed(1))


def method_for(name: str, family: str = "vit", **settings: Any) -> vitrim.Method:
    """The method, with a scorer that the family has."""
    name, variant = VARIANTS.get(name, (name, {}))
    defaults = amount(name, per_block=3, share=0.7) | variant
    if family in NO_CLASS_TOKEN and name in SCORED_BY_CLASS_TOKEN:
        defaults["scorer"] = "received"
    return vitrim.create_method(name, **(defaults | settings))


def method_that_keeps_all(name: str, family: str = "vit") -> vitrim.Method:
    return method_for(name, family, **neutral(VARIANTS.get(name, (name,))[0]))


def reduced(family: str, name: str, **settings: Any) -> Any:
    return vitrim.reduce_tokens(small_model(family), method_for(name, family, **settings))


def embedded(model: Any, images: Tensor) -> Tensor:
    """What enters the first block: [B, N, C]."""
    x = model._pos_embed(model.patch_embed(images))
    return model.norm_pre(x[0] if isinstance(model, Eva) else model.patch_drop(x))


def rotations(model: Any) -> Tensor | None:
    """The table of rotary positions, [P, R], or one for each block, [depth, H, P, R]; None for a model without."""
    return model.rope.get_embed() if isinstance(model, Eva) else None


def logits_of(model: Any, x_BNC: Tensor, table: Tensor | None = None) -> Tensor:
    """The rest of the model."""
    for i, block in enumerate(model.blocks):
        of_block = table[i] if table is not None and table.ndim == 4 else table
        x_BNC = block(x_BNC) if table is None else block(x_BNC, rope=of_block)
    return model.forward_head(model.norm(x_BNC))


@cache
def _copies(family: str) -> Callable[[], Any]:
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model = FAMILIES[family]().eval()
        for name, parameter in model.named_parameters():
            if "ls1" not in name and "ls2" not in name:
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return copies_of(model)


def _trained_scales(model: VisionTransformer) -> VisionTransformer:
    for name, parameter in model.named_parameters():
        if name.endswith("gamma"):
            nn.init.uniform_(parameter, 0.1, 1.0)
    return model
