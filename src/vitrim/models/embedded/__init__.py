"""The embedded default: a small ViT for Fashion-MNIST and 1,000 labelled test images.

Importing this module registers the model ``vitrim_fashion_tiny`` with timm; nothing
else does. It imports timm, so import it only where a model is about to be built.
The weights lie beside this file: ``pretrained=True`` needs no network.
"""

import os
import shutil
import tempfile
import zipfile
from pathlib import Path

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.vision_transformer import VisionTransformer

__all__ = ["IMAGES", "MODEL_NAME", "WEIGHTS", "demo_images", "vitrim_fashion_tiny"]

MODEL_NAME = "vitrim_fashion_tiny"
WEIGHTS = Path(__file__).with_name("vitrim_fashion_tiny.safetensors")
IMAGES = Path(__file__).with_name("fashion_mnist_1000.zip")

# Mean and standard deviation are those of the 60,000 training images.
default_cfgs = generate_default_cfgs(
    {
        MODEL_NAME: {
            "file": str(WEIGHTS),
            "input_size": (1, 28, 28),
            "fixed_input_size": True,
            "mean": (0.2860,),
            "std": (0.3530,),
            "interpolation": "bicubic",
            "crop_pct": 1.0,
            "num_classes": 10,
            "pool_size": None,
            "classifier": "head",
            "first_conv": "patch_embed.proj",
            "license": "apache-2.0",
        }
    }
)


@register_model
def vitrim_fashion_tiny(pretrained: bool = False, **kwargs) -> VisionTransformer:
    """Build the 12-block ViT: 28x28 gray, 2x2 patches, 196 patch tokens + class token.

    pretrained=True loads the packaged weights, stored as fp16, into fp32 parameters.
    """
    arguments = {
        "img_size": 28,
        "patch_size": 2,
        "in_chans": 1,
        "num_classes": 10,
        "embed_dim": 96,
        "depth": 12,
        "num_heads": 3,
        "mlp_ratio": 4.0,
    }
    return build_model_with_cfg(
        VisionTransformer, MODEL_NAME, pretrained, **(arguments | kwargs)
    )
