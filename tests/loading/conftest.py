"""Small models of other libraries, as folders and by name."""

from __future__ import annotations

from pathlib import Path

import open_clip
import pytest
import torch
import transformers
from torchvision.models import vision_transformer

from vitrim.models.embedded import demo_images


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as transformers saves it: a tiny ViT of ten classes and its image processor."""
    folder = tmp_path_factory.mktemp("transformers") / "vit"
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=32, num_hidden_layers=4, num_attention_heads=2, intermediate_size=64, image_size=32, patch_size=8
    )
    config.num_labels = 10
    transformers.ViTForImageClassification(config).save_pretrained(folder)
    transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def two_towers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny CLIP and a tiny SigLIP, whole, and their image processors."""
    folder = tmp_path_factory.mktemp("towers")
    sizes = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 64}
    text = sizes | {"vocab_size": 100, "max_position_embeddings": 8, "eos_token_id": 2, "bos_token_id": 1}
    vision = sizes | {"image_size": 32, "patch_size": 8}
    torch.manual_seed(0)
    # The projection's width is not the default of the vision tower's own configuration.
    clip = transformers.CLIPConfig(vision_config=vision, text_config=text, projection_dim=24)
    transformers.CLIPModel(clip).save_pretrained(folder / "CLIPModel")
    transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32).save_pretrained(folder / "CLIPModel")
    siglip = transformers.SiglipConfig(vision_config=vision, text_config=text)
    transformers.SiglipModel(siglip).save_pretrained(folder / "SiglipModel")
    size = {"height": 32, "width": 32}
    transformers.SiglipImageProcessor(size=size).save_pretrained(folder / "SiglipModel")
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return demo_images(tmp_path_factory.mktemp("images") / "fashion")


@pytest.fixture
def small_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """open_clip has two small models more, tiny and tiny-timm, and torchvision's Vision Transformers are small ones."""
    text = {"context_length": 8, "vocab_size": 100, "width": 32, "heads": 2, "layers": 2}
    own = {"image_size": 64, "patch_size": 8, "width": 96, "head_width": 16, "layers": 4}
    of_timm = {"image_size": 160, "timm_model_name": "test_vit", "timm_model_pretrained": False, "timm_proj": "linear"}
    for name, vision in (("tiny", own), ("tiny-timm", of_timm)):
        config = {"embed_dim": 24, "vision_cfg": vision, "text_cfg": text}
        monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, name, config)

    build, small = vision_transformer._vision_transformer, {"num_layers": 4, "hidden_dim": 48, "mlp_dim": 96}
    monkeypatch.setattr(vision_transformer, "_vision_transformer", lambda **sizes: build(**sizes | small))
