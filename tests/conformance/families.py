"""Small models of every family that vitrim reads, and the settings under which each method runs on all of them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from timm.layers import SwiGLUPacked
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import ResPostBlock, VisionTransformer
from torch import Tensor, nn

import vitrim

DEPTH = 5  # the default layers are 1, 2 and 3: a block before, and one after
SMALL = {"img_size": 32, "patch_size": 4, "embed_dim": 48, "depth": DEPTH, "num_heads": 3, "num_classes": 10}

FAMILIES: dict[str, Callable[[], VisionTransformer]] = {
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
}
NO_CLASS_TOKEN = ("siglip", "register_gap", "gap")

# What becomes of the patches that a method does not keep. A new method has to be put into one of the two.
MERGING = ("beyond_attentive", "evit", "evit+bat", "metr", "token_mergence", "tome")
DROPPING = ("evit-nofuse", "feature_norm", "random")
WEIGHTED_MEANS = tuple(name for name in MERGING if name not in ("evit", "metr"))  # EViT fuses by a plain sum
SCORED_BY_CLASS_TOKEN = ("beyond_attentive", "evit", "evit+bat", "evit-nofuse", "token_mergence")
BY_POSITION = ("random", "tome", "bat-conv")  # which tokens go depends, by design, on where they stand in the sequence

VARIANTS = {f"bat-{what}": ("beyond_attentive", {"inattentive": what}) for what in ("conv", "mlp")}
LEARNING = ("metr", *VARIANTS)  # methods with weights of their own
NEEDS_CLASS_TOKEN = ("metr",)
CASES = [
    *(
        (family, method)
        for family in FAMILIES
        for method in vitrim.list_methods()
        if family not in NO_CLASS_TOKEN or method not in NEEDS_CLASS_TOKEN
    ),
    *((family, variant) for family in ("vit", "register_gap") for variant in VARIANTS),
]
# For mechanics that do not depend on the pairing: every method on two families, and every family with two methods.
COVERING = [case for case in CASES if case[0] in ("vit", "register_gap") or case[1] in ("evit", "tome")]


def small_model(family: str) -> VisionTransformer:
    """A model of the family in eval mode, with weights that make attention far from uniform."""
    return copy.deepcopy(_template(family))


def small_images(family: str, num_images: int = 2) -> Tensor:
    """Images for it; for dynamic_size not of the resolution that it was built for."""
    height, width = {"dinov2_swiglu_odd": (70, 70), "dynamic_size": (24, 40)}.get(family, (32, 32))
    return torch.randn(num_images, 3, height, width, generator=torch.Generator().manual_seed(1))


def method_for(name: str, family: str = "vit", **settings: Any) -> vitrim.Method:
    """The method, with a scorer that the family has."""
    defaults: dict[str, Any] = {"r": 3} if name == "tome" else {"keep_rate": 0.7}
    name, variant = VARIANTS.get(name, (name, {}))
    defaults |= variant
    if family in NO_CLASS_TOKEN and name in SCORED_BY_CLASS_TOKEN:
        defaults["scorer"] = "received"
    return vitrim.method_from(name, **(defaults | settings))


def method_that_keeps_all(name: str, family: str = "vit") -> vitrim.Method:
    return method_for(name, family, **({"r": 0} if name == "tome" else {"keep_rate": 1.0}))


def reduced(family: str, name: str, **settings: Any) -> VisionTransformer:
    return vitrim.reduce_tokens(small_model(family), method_for(name, family, **settings))


def embedded(model: VisionTransformer, images: Tensor) -> Tensor:
    """What enters the first block: [B, N, C]."""
    return model.norm_pre(model.patch_drop(model._pos_embed(model.patch_embed(images))))


def logits_of(model: VisionTransformer, x_BNC: Tensor) -> Tensor:
    """The rest of the model."""
    return model.forward_head(model.norm(model.blocks(x_BNC)))


@cache
def _template(family: str) -> VisionTransformer:
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model = FAMILIES[family]().eval()
        for name, parameter in model.named_parameters():
            if "ls1" not in name and "ls2" not in name:
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model


def _trained_scales(model: VisionTransformer) -> VisionTransformer:
    for name, parameter in model.named_parameters():
        if name.endswith("gamma"):
            nn.init.uniform_(parameter, 0.1, 1.0)
    return model
