"""The families of models of torchvision, transformers and open_clip; those whose library is there take part."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import families
from torch import nn

import vitrim
from copies import copies_of
from library_models import DINO, HF, of_open_clip, of_transformers, torchvision_vit, two_towers

CUSTOM = dict.fromkeys(("qk_norm", "scale_heads", "scale_attn_inner", "scale_attn", "scale_fc"), True)


class Family(NamedTuple):
    """How its models are made, and what is known of them."""

    library: str
    make: Callable[[], nn.Module]
    num_prefix: int
    num_classes: int = 0


FAMILIES = {
    "tv_vit": Family("torchvision", torchvision_vit, 1, 10),
    "hf_vit": Family(
        "transformers", lambda: of_transformers("ViTForImageClassification", "ViTConfig", **HF, num_labels=10), 1, 10
    ),
    "hf_deit": Family(
        "transformers",
        lambda: of_transformers("DeiTForImageClassificationWithTeacher", "DeiTConfig", **HF, num_labels=10),
        2,
        10,
    ),
    "hf_dinov2": Family(
        "transformers", lambda: of_transformers("Dinov2ForImageClassification", "Dinov2Config", **DINO), 1, 10
    ),
    "hf_dinov2_registers": Family(
        "transformers",
        lambda: of_transformers(
            "Dinov2WithRegistersForImageClassification",
            "Dinov2WithRegistersConfig",
            **DINO,
            num_register_tokens=4,
            use_swiglu_ffn=True,
            layerscale_value=1e-5,
        ),
        5,
        10,
    ),
    "hf_dinov3": Family(
        "transformers", lambda: of_transformers("DINOv3ViTModel", "DINOv3ViTConfig", **HF, num_register_tokens=4), 5
    ),
    "hf_clip": Family("transformers", lambda: of_transformers("CLIPVisionModel", "CLIPVisionConfig", **HF), 1),
    "hf_clip_classifier": Family(
        "transformers", lambda: two_towers("CLIPForImageClassification", "CLIPConfig", num_labels=10), 1, 10
    ),
    "hf_siglip": Family("transformers", lambda: of_transformers("SiglipVisionModel", "SiglipVisionConfig", **HF), 0),
    "oc_clip": Family("open_clip", of_open_clip, 1),
    "oc_custom_average": Family(
        "open_clip",
        lambda: of_open_clip("CustomTextCLIP", **CUSTOM, ls_init_value=1e-5, pool_type="avg"),
        1,
    ),
    "oc_attention_pool": Family(
        "open_clip",
        lambda: of_open_clip(attentional_pool=True, attn_pooler_queries=4, attn_pooler_heads=2),
        1,
    ),
}
HERE = [name for name, family in FAMILIES.items() if importlib.util.find_spec(family.library)]
NO_CLASS_TOKEN = ("hf_siglip",)
METHODS = (*vitrim.list_methods(), *families.VARIANTS)
CASES = [
    (family, method)
    for family in HERE
    for method in METHODS
    if method not in families.NEEDS_CLASS_TOKEN or (FAMILIES[family].num_classes and FAMILIES[family].num_prefix)
]
COVERING = [case for case in CASES if case[0] in ("tv_vit", "hf_vit") or case[1] in ("evit", "tome")]


def small_model(family: str) -> Any:
    """A model of the family in eval mode, with weights that make attention far from uniform."""
    return _copies(family)()


def method_for(name: str, family: str, **settings: Any) -> vitrim.Method:
    """The method, with a scorer that the family has."""
    return families.method_for(name, "gap" if family in NO_CLASS_TOKEN else "vit", **settings)


def method_that_keeps_all(name: str, family: str) -> vitrim.Method:
    return families.method_that_keeps_all(name, "gap" if family in NO_CLASS_TOKEN else "vit")


def reduced(family: str, name: str, **settings: Any) -> Any:
    return vitrim.reduce_tokens(small_model(family), method_for(name, family, **settings))


@cache
def _copies(family: str) -> Callable[[], Any]:
    return copies_of(FAMILIES[family].make())
