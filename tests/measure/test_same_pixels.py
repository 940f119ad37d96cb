"""Images are preprocessed as by each library's own pipeline, up to rounding."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import timm
import torch
import torchvision
import transformers
from open_clip import transform
from PIL import Image, ImageOps
from torch import Tensor

from vitrim import count_macs
from vitrim.backbones.reader import read_backbone
from vitrim.loading.build import build_model
from vitrim.measure.images import open_image
from vitrim.measure.model_input import eval_transform, input_size_of

SIDE, CROP = {"height": 32, "width": 32}, {"height": 32, "width": 32}
EDGE = {"shortest_edge": 40}
PROCESSORS: dict[str, tuple[str, dict[str, Any]]] = {
    "ViT": ("ViTImageProcessor", {"size": SIDE}),
    "lanczos": ("ViTImageProcessor", {"size": SIDE, "resample": 1}),
    "size as a number": ("ViTImageProcessor", {"size": 32}),
    "rescale factor": ("ViTImageProcessor", {"size": SIDE, "rescale_factor": 1 / 127.5, "image_mean": [1.0] * 3}),
    "no rescaling": ("ViTImageProcessor", {"size": SIDE, "do_rescale": False, "image_mean": [127.0] * 3}),
    "no normalisation": ("ViTImageProcessor", {"size": SIDE, "do_normalize": False}),
    "plain pixels": ("ViTImageProcessor", {"size": SIDE, "do_normalize": False, "do_rescale": False}),
    "crop alone": ("BitImageProcessor", {"do_resize": False, "crop_size": CROP, "do_center_crop": True}),
    "DINOv2": ("BitImageProcessor", {"size": EDGE, "crop_size": CROP, "do_center_crop": True}),
    "CLIP": ("CLIPImageProcessor", {"size": EDGE, "crop_size": 32}),
    "DeiT": ("DeiTImageProcessor", {"size": {"height": 40, "width": 40}, "crop_size": CROP}),
    "ConvNext": ("ConvNextImageProcessor", {"size": {"shortest_edge": 32}, "crop_pct": 0.8}),
    "Pillow's": ("ViTImageProcessorPil", {"size": SIDE, "resample": 3}),
}


@pytest.fixture(scope="module")
def pictures(photographs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Photographs, where there are any, and pictures of every kind that is stored otherwise."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    colour = Image.fromarray(rng.integers(0, 256, (57, 83, 3), np.uint8))
    exif = colour.getexif()
    exif[0x0112] = 8
    colour.save(folder / "upright.jpg", exif=exif)
    for mode, suffix in (("L", "png"), ("P", "gif"), ("1", "png"), ("CMYK", "jpg")):
        colour.convert(mode).save(folder / f"{mode}.{suffix}")
    for mode in ("RGBA", "LA"):
        image = colour.convert(mode)
        image.putalpha(Image.fromarray(rng.integers(0, 256, (57, 83), np.uint8)))
        image.save(folder / f"{mode}.png")
    return [*photographs, *sorted(folder.iterdir())]


def check(ours: Callable[[Any], Tensor], theirs: Callable[[Any], Tensor], pictures: list[Path]) -> None:
    """Both from the file: ours through `open_image`, theirs through Pillow as transformers loads images."""
    for path in pictures:
        with Image.open(path) as image:
            wanted = theirs(ImageOps.exif_transpose(image).convert("RGB"))
        got = ours(open_image(path, 3))
        assert got.shape == wanted.shape
        assert (got - wanted).abs().max() <= 1e-6, path.name


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "vit_base_patch16_clip_224.openai", "beit_base_patch16_224"])
def test_as_timm(name: str, pictures: list[Path]) -> None:
    model = timm.create_model(name, img_size=64, depth=1)
    config = timm.data.resolve_model_data_config(model, args={"img_size": 64})
    check(eval_transform(model), timm.data.create_transform(**config, is_training=False), pictures)


@pytest.mark.parametrize("kind", PROCESSORS)
def test_as_transformers(kind: str, tmp_path: Path, pictures: list[Path]) -> None:
    name, settings = PROCESSORS[kind]
    save_model(tmp_path, name, settings)
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path)

    def theirs(image: Image.Image) -> Tensor:
        return processor(image, return_tensors="pt")["pixel_values"][0].float()

    check(eval_transform(build_model(f"transformers:{tmp_path}")), theirs, pictures)


@pytest.mark.parametrize(("name", "size"), [("vit_b_32", None), ("vit_b_32", 96), ("vit_l_16", 64)])
def test_as_torchvision(name: str, size: int | None, pictures: list[Path]) -> None:
    recipe = torchvision.models.get_model_weights(name).DEFAULT.transforms
    edge = recipe.keywords.get("resize_size", 256)
    theirs = (
        recipe() if size is None else recipe(crop_size=size, resize_size=round(size * edge / recipe().crop_size[0]))
    )
    with torch.device("meta"):
        ours = eval_transform(build_model(f"torchvision:{name}", img_size=size))
    check(ours, theirs, pictures)


@pytest.mark.parametrize("name", ["ViT-B-32", pytest.param("ViT-B-16-SigLIP", marks=pytest.mark.slow)])
def test_as_open_clip(name: str, pictures: list[Path]) -> None:
    config = open_clip.get_model_preprocess_cfg(
        open_clip.create_model(name, force_image_size=64, pretrained_text=False)
    )
    theirs = transform.image_transform_v2(transform.PreprocessCfg(**config), is_train=False)
    check(eval_transform(build_model(f"open_clip:{name}", img_size=64)), theirs, pictures)


def save_model(folder: Path, processor: str, settings: dict[str, Any], image_size: int = 32) -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "mlp_ratio": 1}
    config = transformers.Dinov2Config(**sizes, image_size=image_size, patch_size=8)
    transformers.Dinov2ForImageClassification(config).save_pretrained(folder)
    getattr(transformers, processor)(**settings).save_pretrained(folder)


def test_the_size_of_the_image_processor_is_the_model_s_where_the_two_differ(tmp_path: Path) -> None:
    save_model(tmp_path, "BitImageProcessor", PROCESSORS["DINOv2"][1], image_size=72)
    model = build_model(f"transformers:{tmp_path}")
    assert input_size_of(model) == (3, 32, 32)
    assert read_backbone(model).spec.num_patches == 16
    assert count_macs(model) == count_macs(model, (3, 32, 32)) < count_macs(model, (3, 72, 72))


def test_a_crop_that_is_not_square_is_followed(tmp_path: Path) -> None:
    settings = {"size": EDGE, "crop_size": {"height": 24, "width": 40}, "do_center_crop": True}
    save_model(tmp_path, "BitImageProcessor", settings)
    model = build_model(f"transformers:{tmp_path}")
    assert input_size_of(model) == (3, 24, 40)
    assert read_backbone(model).spec.num_patches == 15


@pytest.mark.parametrize(
    ("processor", "settings", "message"),
    [
        (
            "ViTImageProcessor",
            {"do_resize": False},
            "do_resize false",
        ),
        ("BitImageProcessor", {"size": EDGE, "do_center_crop": False}, "size.*40"),
        ("ViTImageProcessor", {"size": SIDE, "image_mean": [0.5]}, " 1 .*image_mean.* 3"),
        ("ViTImageProcessor", {"size": SIDE, "image_std": [0.5] * 4}, " 4 .*image_std"),
    ],
)
def test_an_image_processor_that_cannot_be_followed_is_refused_by_its_entry(
    tmp_path: Path, processor: str, settings: dict[str, Any], message: str
) -> None:
    save_model(tmp_path, processor, settings)
    with pytest.raises(ValueError, match=message):
        build_model(f"transformers:{tmp_path}")


def test_a_size_that_the_model_refuses_is_told(tmp_path: Path) -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    config = transformers.ViTConfig(**sizes, image_size=32, patch_size=8)
    transformers.ViTForImageClassification(config).save_pretrained(tmp_path)
    transformers.ViTImageProcessor(size={"height": 64, "width": 64}).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"64 x 64.* 32"):
        build_model(f"transformers:{tmp_path}")
