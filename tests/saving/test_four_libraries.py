"""Models of every library are saved with their reduction and come back equal to the last bit."""

from __future__ import annotations

import json
from pathlib import Path

import open_clip
import pytest
import torch
import torchvision
import transformers
from saved_models import change
from torchvision.models import vision_transformer

import vitrim
from small_job import save_images
from vitrim.cli import app
from vitrim.core.notice import VitrimWarning
from vitrim.heads import Logits
from vitrim.loading.build import build_model, load_model
from vitrim.measure.model_input import eval_transform

TOWER = {"width": 32, "layers": 4, "head_width": 16, "patch_size": 8, "image_size": 32}
TINY = {"embed_dim": 24, "vision_cfg": TOWER, "text_cfg": {"width": 16, "heads": 2, "layers": 1, "vocab_size": 9}}


def transformers_vit(**settings):
    sizes = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 64}
    config = transformers.ViTConfig(**sizes, image_size=32, patch_size=8, **settings)
    config.num_labels = 5
    return transformers.ViTForImageClassification(config)


def torchvision_vit():
    return torchvision.models.VisionTransformer(32, 8, 4, 2, 32, 64, num_classes=5)


def tower():
    return open_clip.CLIP(**TINY).visual


@pytest.fixture(autouse=True)
def small_models(monkeypatch):
    """open_clip has a small model more, and torchvision's are small."""
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny", TINY)
    build, small = vision_transformer._vision_transformer, {"num_layers": 4, "hidden_dim": 48, "mlp_dim": 96}
    monkeypatch.setattr(vision_transformer, "_vision_transformer", lambda **sizes: build(**sizes | small))


@torch.no_grad()
def outputs(model):
    return Logits(model)(torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1)))


def same(one, other):
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


METHODS = [vitrim.EViT(keep_rate=0.5), vitrim.ToMe(r=2), vitrim.METR(method=vitrim.EViT(keep_rate=0.5))]


@pytest.mark.parametrize("method", METHODS, ids=["evit", "tome", "metr"])
@pytest.mark.parametrize("make", [transformers_vit, torchvision_vit, tower])
def test_a_reduced_model_comes_back(make, method, tmp_path):
    torch.manual_seed(0)
    if make is tower and method.exits:
        pytest.skip("exits need classes")
    model = vitrim.reduce_tokens(make().eval(), method)
    folder = vitrim.save_pretrained(model, tmp_path / "saved")
    again = vitrim.from_pretrained(folder)
    assert vitrim.method_of(again) == vitrim.method_of(model)
    assert same(again, model)
    assert torch.equal(outputs(again), outputs(model))
    plain = vitrim.from_pretrained(folder, method=None)
    assert vitrim.method_of(plain) is None
    assert torch.equal(outputs(plain), outputs(vitrim.restore(model)))
    with pytest.warns(VitrimWarning, match="saved with"):
        assert torch.equal(outputs(load_model(folder)), outputs(model))
    vitrim.save_pretrained(model, folder)  # replaces it
    assert torch.equal(outputs(load_model(folder)), outputs(model))


def test_transformers_itself_reads_the_plain_model(tmp_path):
    model = vitrim.reduce_tokens(transformers_vit().eval(), "metr")
    folder = vitrim.save_pretrained(model, tmp_path / "saved")
    plain, found = transformers.AutoModelForImageClassification.from_pretrained(folder, output_loading_info=True)
    assert not any(found.values())
    assert same(plain, vitrim.restore(model))
    assert json.loads((folder / "config.json").read_text())["vitrim"]["method"]["class"] == "METR"
    tuned = vitrim.save_pretrained(plain, tmp_path / "plain")  # a reduction that is no more is not written
    assert vitrim.method_of(vitrim.from_pretrained(tuned)) is None


def test_a_reduction_outlives_training_by_transformers_alone(tmp_path):
    folder = vitrim.save_pretrained(vitrim.reduce_tokens(transformers_vit(), "evit"), tmp_path / "saved")
    transformers.AutoModelForImageClassification.from_pretrained(folder).save_pretrained(tmp_path / "tuned")
    assert vitrim.method_of(vitrim.from_pretrained(tmp_path / "tuned")).name == "evit"


def test_a_folder_that_transformers_wrote_comes_with_all_tokens(tmp_path):
    model = transformers_vit().eval()
    model.save_pretrained(tmp_path / "saved")
    assert torch.equal(outputs(vitrim.from_pretrained(tmp_path / "saved")), outputs(model))


def test_precision_attention_and_exchanged_heads_come_back(tmp_path):
    model = transformers_vit(attn_implementation="eager").half().eval()
    model.classifier = torch.nn.Linear(32, 3).half()
    again = vitrim.from_pretrained(vitrim.save_pretrained(model, tmp_path / "saved"))
    assert same(again, model) and again.dtype == torch.float16
    assert again.config._attn_implementation == "eager" and again.num_classes == again.config.num_labels == 3


def test_images_are_prepared_as_before(tmp_path):
    folder = tmp_path / "theirs"
    transformers_vit().save_pretrained(folder)
    transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    image = torchvision.transforms.ToPILImage()(torch.rand(3, 50, 40))
    for name in (str(folder), "torchvision:vit_b_32", "open_clip:tiny"):
        model = build_model(name)
        again = vitrim.from_pretrained(
            vitrim.save_pretrained(model, tmp_path / Path(name).name.replace(":", "_") / "model")
        )
        assert torch.equal(eval_transform(again)(image), eval_transform(model)(image))


def test_evaluate_takes_a_folder_of_transformers_as_it_was_saved(tmp_path, capsys):
    transformers_vit().save_pretrained(tmp_path / "theirs")
    transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "theirs")
    model = vitrim.reduce_tokens(load_model(tmp_path / "theirs"), "evit")
    saved, data = vitrim.save_pretrained(model, tmp_path / "saved"), save_images(tmp_path / "images", 5)
    with pytest.raises(SystemExit):
        app(["evaluate", "--model", str(saved), "--data", str(data)])
    assert f"{saved}, evit as it was saved: top-1 " in capsys.readouterr().out
    with pytest.warns(VitrimWarning, match="EViT"):
        load_model(f"transformers:{saved}")


class OfAUser(transformers.ViTForImageClassification):
    pass


def test_what_a_folder_cannot_hold_is_refused_in_one_line(tmp_path):
    for model, said in (
        (OfAUser(transformers_vit().config), "OfAUser.*transformers"),
        (changed(torchvision_vit()), "torchvision"),
        (unlike(tower()), r"ln_post\.eps.*0\.001"),
    ):
        with pytest.raises(ValueError, match=said) as error:
            vitrim.save_pretrained(model, tmp_path / "refused")
        assert "\n" not in str(error.value) and not (tmp_path / "refused").exists()


def changed(model):
    model.encoder.layers[1].mlp[1] = torch.nn.ReLU()
    return model


def unlike(model):
    model.ln_post.eps = 1e-3
    return model


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        ({"library": "torch"}, "library.*torchvision"),
        ({"architecture": "pipeline"}, "pipeline.*transformers"),
        ({"arguments": {"attn_implementation": "evil"}}, "sdpa or eager.*evil"),
        ({"vitrim_format": 3}, "format 3.*1 and 2"),
        ({"arguments": {"depth": -1}}, "depth.*whole number"),
    ],
)
def test_an_entry_that_was_edited_is_refused_in_one_line(tmp_path, edit, said):
    folder = vitrim.save_pretrained(transformers_vit(), tmp_path / "saved")
    content = json.loads((folder / "config.json").read_text())
    content["vitrim"] |= edit
    (folder / "config.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=said) as error:
        vitrim.from_pretrained(folder)
    assert "\n" not in str(error.value)


def test_a_tower_that_names_weights_to_fetch_is_refused(tmp_path):
    folder = vitrim.save_pretrained(tower().eval(), tmp_path / "saved")
    for name, fetched in (("hf-hub:somebody/model", False), ("vit_tiny_patch16_224", True)):
        vision = TOWER | {"timm_model_name": name, "timm_model_pretrained": fetched}
        change(folder, arguments={"embed_dim": 24, "vision_cfg": vision, "quick_gelu": False})
        with pytest.raises(ValueError, match=r"trunk.*weights"):
            vitrim.from_pretrained(folder)


def test_a_folder_of_format_1_loads_as_it_was_written():
    folder = Path(__file__).parents[1] / "data" / "saved" / "format_1"
    model = vitrim.from_pretrained(folder)
    x_BCHW = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    then = [[0.6170165, 0.273644, -0.2762284], [0.6487901, 0.2482055, -0.2513965]]  # by the version that wrote it
    with torch.no_grad():
        assert torch.allclose(model(x_BCHW), torch.tensor(then), atol=1e-5)
    method = vitrim.method_of(model)
    assert method.name == "evit" and method.exits.layers == (1,)
