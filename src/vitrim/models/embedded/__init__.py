"""The embedded default: a small ViT for Fashion-MNIST and 1,000 labelled test images.

Importing this module registers the model ``vitrim_fashion_tiny`` with timm. It imports
timm, so import it only to build a model. The weights are in this folder, so
``pretrained=True`` needs no network.
"""

import os
import zipfile
from pathlib import Path
from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn

from ...store import writing
from ...temporary import temporary_folder

__all__ = ["IMAGES", "MODEL_NAME", "WEIGHTS", "demo_images", "vitrim_fashion_tiny"]

MODEL_NAME = "vitrim_fashion_tiny"
WEIGHTS = Path(__file__).with_name("vitrim_fashion_tiny.safetensors")
IMAGES = Path(__file__).with_name("fashion_mnist_1000.zip")

# Mean and standard deviation are those of the 60,000 training images.
default_cfgs = generate_default_cfgs(
    {
        MODEL_NAME: {
            "file": str(WEIGHTS),
            "input_size": (1, 30, 30),
            "fixed_input_size": True,
            "mean": (0.2860,),
            "std": (0.3530,),
            "interpolation": "bicubic",
            # Resize to 28, then centre-crop to 30: the crop adds one black pixel on each
            # side, so a 28x28 image keeps its pixels and splits into 10x10 patches.
            "crop_pct": 1.07,
            "num_classes": 10,
            "pool_size": None,
            "classifier": "head",
            "first_conv": "patch_embed.proj",
            "license": "apache-2.0",
        }
    }
)


@register_model
def vitrim_fashion_tiny(pretrained: bool = False, **kwargs: Any) -> VisionTransformer:
    """Build the 12-block ViT: 28x28 gray padded to 30x30, 100 patch tokens + class token.

    pretrained=True loads the packaged weights, stored as fp16, into fp32 parameters.
    """
    arguments = {
        "img_size": 30,
        "patch_size": 3,
        "in_chans": 1,
        "num_classes": 10,
        "embed_dim": 96,
        "depth": 12,
        "num_heads": 3,
        "mlp_ratio": 4.0,
    }
    resample: Any = checkpoint_filter_fn  # position embeddings, for images of another size
    settings = arguments | kwargs
    return build_model_with_cfg(VisionTransformer, MODEL_NAME, pretrained, pretrained_filter_fn=resample, **settings)


def demo_images(folder: Path | str) -> Path:
    """Unpack the 1,000 labelled test images into a folder, unless they are there, and return it.

    The folder then holds images/, labels.csv (header file,label; files relative to images/),
    classes.txt (line k names class k, counted from 0) and LICENSE.
    """
    folder = Path(folder)
    if (folder / "labels.csv").exists():
        return folder
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} holds other files: name a folder that is new or empty")
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Unpacked beside the target, then renamed, so that a folder with labels.csv is always complete.
    with writing(folder), temporary_folder(folder.parent) as beside:
        unpacked = beside / "unpacked"
        with zipfile.ZipFile(IMAGES) as archive:
            archive.extractall(unpacked)
        try:
            if folder.exists():
                folder.rmdir()  # empty; Windows renames onto nothing that exists
            os.rename(unpacked, folder)
        except OSError:
            # Another process may have been faster.
            if not (folder / "labels.csv").exists():
                raise
    return folder
