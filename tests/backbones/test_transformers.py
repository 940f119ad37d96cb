"""Models of transformers stay what they are: pipelines, the Trainer, files, resolutions, exports."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

import vitrim
from library_models import (
    HF,
    PATCHES,
    hf_clip,
    hf_dinov3,
    hf_vit,
    images,
    of_transformers,
    output,
    stack_of,
)
from vitrim.backbones.reader import find_stack, read_backbone
from vitrim.measure.evaluate import evaluate
from vitrim.measure.macs import count_macs
from vitrim.measure.model_input import eval_transform, input_size_of

transformers = pytest.importorskip("transformers")


def prompts(num_classes: int = 3) -> Tensor:
    """Token ids, each ending with the end token."""
    ids = torch.randint(3, 100, (num_classes, 8), generator=torch.Generator().manual_seed(5))
    ids[:, -1] = 2
    return ids


def keys_of(folder: Path) -> list[str]:
    with safe_open(folder / "model.safetensors", "pt") as file:
        return sorted(file.keys())


@torch.no_grad()
def test_the_inner_model_and_the_whole_are_the_same_to_reduce() -> None:
    whole, inner = hf_vit(), hf_vit()
    vitrim.reduce_tokens(whole, "evit")
    vitrim.reduce_tokens(inner.vit, "evit", pools_patches=False)
    assert torch.equal(whole(images()).logits, inner(images()).logits)
    assert stack_of(inner) is stack_of(inner.vit)
    assert inner.vit(images()).last_hidden_state.shape[1] < PATCHES
    assert find_stack(vitrim.restore(inner)) is None


LIKE = {  # class -> its configuration, tokens before the patches, whether its head or its user pools patches
    "ViTMSNForImageClassification": ("ViTMSNConfig", HF | {"num_labels": 10}, 1, False),
    "IJepaForImageClassification": ("IJepaConfig", HF | {"num_labels": 10}, 0, True),
    "Tipsv2VisionModel": ("Tipsv2VisionConfig", HF | {"mlp_ratio": 2, "num_register_tokens": 1}, 2, True),
    "MetaClip2ForImageClassification": ("MetaClip2Config", {"vision_config": HF, "num_labels": 10}, 1, True),
    "MetaClip2VisionModel": ("MetaClip2VisionConfig", HF, 1, True),
    "AltCLIPVisionModel": ("AltCLIPVisionConfig", HF, 1, True),
    "ChineseCLIPVisionModel": ("ChineseCLIPVisionConfig", HF, 1, True),
}


@pytest.mark.parametrize("name", LIKE)
@torch.no_grad()
def test_models_with_blocks_like_these_are_read_too(name: str) -> None:
    config, settings, num_prefix, pools = LIKE[name]
    if not hasattr(transformers, name):
        pytest.skip(f"this version has no {name}")
    model = of_transformers(name, config, **settings)
    spec, wanted = read_backbone(model).spec, output(model, images())
    assert (spec.num_prefix, spec.has_cls, spec.pools_patches) == (num_prefix, num_prefix > 0, pools)
    assert (spec.num_patches, spec.num_classes) == (PATCHES, settings.get("num_labels", 0))
    assert torch.equal(output(vitrim.reduce_tokens(model, "tome", r=0), images()), wanted)
    assert not torch.allclose(output(vitrim.reduce_tokens(model, "tome", r=9), images()), wanted)
    assert torch.equal(output(vitrim.restore(model), images()), wanted)


def test_the_name_is_that_of_the_checkpoint() -> None:
    model = hf_vit()
    assert read_backbone(model).spec.name == "ViTForImageClassification"
    model.config._name_or_path = "someone/their-vit"
    assert read_backbone(model).spec.name == "someone/their-vit"


@torch.no_grad()
def test_both_heads_of_a_distilled_model_work() -> None:
    model = of_transformers("DeiTForImageClassificationWithTeacher", "DeiTConfig", **HF, num_labels=10)
    out = vitrim.reduce_tokens(model, "tome", r=5)(images())
    torch.testing.assert_close(out.logits, (out.cls_logits + out.distillation_logits) / 2)
    assert not torch.allclose(out.cls_logits, out.distillation_logits)


@torch.no_grad()
def test_another_resolution_keeps_its_share_of_patches() -> None:
    model = vitrim.reduce_tokens(hf_vit(), "evit-nofuse", keep_rate=0.5, layers=(0,))
    out = model.vit(torch.randn(1, 3, 48, 48), interpolate_pos_encoding=True)
    assert out.last_hidden_state.shape[1] == 1 + 72


def test_the_image_classification_pipeline_works() -> None:
    from PIL import Image

    processor = transformers.ViTImageProcessor(size={"height": 32, "width": 32})
    model = hf_vit()
    picture = Image.effect_mandelbrot((50, 40), (-3, -2.5, 2, 2.5), 40).convert("RGB")
    plain = transformers.pipeline("image-classification", model=model, image_processor=processor)(picture)
    vitrim.reduce_tokens(model, "evit", keep_rate=0.5)
    found = transformers.pipeline("image-classification", model=model, image_processor=processor, top_k=10)(picture)
    assert sum(entry["score"] for entry in found) == pytest.approx(1, abs=1e-4)
    with torch.no_grad():
        logits = model(processor(picture, return_tensors="pt").pixel_values).logits[0]
    assert [entry["label"] for entry in found] == [
        model.config.id2label[int(i)] for i in logits.argsort(descending=True)
    ]
    assert found[0]["score"] != plain[0]["score"]


def test_the_trainer_takes_a_step(tmp_path: Path) -> None:
    model = vitrim.reduce_tokens(hf_vit(), "tome", r=5)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    data = [{"pixel_values": image, "labels": i % 10} for i, image in enumerate(images(4))]
    settings = transformers.TrainingArguments(
        tmp_path, max_steps=1, per_device_train_batch_size=2, report_to=[], use_cpu=True, learning_rate=0.1,
        save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    done = transformers.Trainer(model, settings, train_dataset=data).train()
    assert done.global_step == 1
    assert torch.tensor(done.training_loss).isfinite()
    assert find_stack(model) is not None
    assert not torch.equal(model.state_dict()["vit.layers.0.mlp.fc1.weight"], before["vit.layers.0.mlp.fc1.weight"])


def test_saved_files_are_those_of_the_plain_model(tmp_path: Path) -> None:
    model = hf_vit()
    wanted = model(images()).logits
    model.save_pretrained(tmp_path / "plain")
    vitrim.reduce_tokens(model, "evit").save_pretrained(tmp_path / "reduced")
    assert keys_of(tmp_path / "reduced") == keys_of(tmp_path / "plain")
    configs = [json.loads((tmp_path / name / "config.json").read_text()) for name in ("plain", "reduced")]
    assert configs[0] == configs[1]
    loaded = transformers.ViTForImageClassification.from_pretrained(tmp_path / "reduced")
    assert torch.equal(loaded.eval()(images()).logits, wanted)
    assert torch.equal(vitrim.reduce_tokens(loaded, "evit")(images()).logits, model(images()).logits)


def test_heads_of_metr_are_saved_beside_and_do_not_hinder_loading(tmp_path: Path) -> None:
    model = hf_vit()
    wanted = model(images()).logits
    model.save_pretrained(tmp_path / "plain")
    vitrim.reduce_tokens(model, vitrim.METR(method=vitrim.EViT())).save_pretrained(tmp_path / "reduced")
    more = set(keys_of(tmp_path / "reduced")) - set(keys_of(tmp_path / "plain"))
    blocks = {key.partition(".method.exit.")[0] for key in more}  # the library saves them under names of its own
    assert {block.rpartition(".")[2] for block in blocks} == {"1", "2", "3"}
    loaded = transformers.ViTForImageClassification.from_pretrained(tmp_path / "reduced")
    assert torch.equal(loaded.eval()(images()).logits, wanted)


def test_the_exits_of_metr_tell_their_logits() -> None:
    model = vitrim.reduce_tokens(hf_vit(), vitrim.METR(method=vitrim.EViT())).train()
    told: list[Any] = []
    stack_of(model).collect_outputs(told)
    logits = model(images()).logits
    assert [exit_BK.shape for exit_BK in told[0].collected("metr")] == [logits.shape] * 3


@torch.no_grad()
def test_zero_shot_classification_works_end_to_end_and_text_is_untouched() -> None:
    model = hf_clip()
    plain = model(input_ids=prompts(), pixel_values=images(4))
    vitrim.reduce_tokens(model, "evit", keep_rate=0.5)
    out = model(input_ids=prompts(), pixel_values=images(4))
    assert torch.equal(out.text_embeds, plain.text_embeds)
    assert not torch.allclose(out.logits_per_image, plain.logits_per_image, atol=1e-3)
    assert out.logits_per_image.softmax(dim=1).shape == (4, 3)
    embeds = nn.functional.normalize(model.get_image_features(images(4)).pooler_output, dim=1)
    torch.testing.assert_close(model.logit_scale.exp() * embeds @ out.text_embeds.T, out.logits_per_image)
    assert torch.equal(vitrim.restore(model)(input_ids=prompts(), pixel_values=images(4)).logits_per_image,
                       plain.logits_per_image)  # fmt: skip


@pytest.mark.parametrize("family", ["vit", "dinov2", "dinov3", "clip"])
@torch.no_grad()
def test_an_exported_model_equals_the_eager_one(family: str) -> None:
    model = {
        "vit": hf_vit,
        "dinov2": lambda: of_transformers("Dinov2Model", "Dinov2Config", **HF),
        "dinov3": hf_dinov3,
        "clip": lambda: of_transformers("CLIPVisionModel", "CLIPVisionConfig", **HF),
    }[family]()
    vitrim.reduce_tokens(model, "evit")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(model, (images(),))
    torch.testing.assert_close(program.module()(images())[0], model(images())[0], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_rotations_follow_another_resolution() -> None:
    model, x = hf_dinov3(), torch.randn(2, 3, 24, 40)
    wanted = model(x).last_hidden_state
    assert torch.equal(vitrim.reduce_tokens(model, "evit", keep_rate=1.0)(x).last_hidden_state, wanted)
    vitrim.reduce_tokens(model, "evit-nofuse", keep_rate=0.5, layers=(0,))
    assert model(x).last_hidden_state.shape[1] == 5 + 30


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@torch.no_grad()
def test_the_attention_that_was_asked_for_does_not_change_the_result(attention: str) -> None:
    model = hf_vit()
    wanted = vitrim.reduce_tokens(hf_vit(), "evit")(images()).logits
    model.set_attn_implementation(attention)
    assert torch.equal(vitrim.reduce_tokens(model, "evit")(images()).logits, wanted)
    assert model.config._attn_implementation == attention


def test_patches_can_be_traced() -> None:
    model = vitrim.reduce_tokens(hf_vit(), "evit", keep_rate=0.5)
    with vitrim.trace(model) as trace:
        model(images())
    assert trace.grid == (8, 8)
    assert [layer.num_tokens for layer in trace.layers] == [34, 19, 11]


def test_accuracy_and_multiply_adds_are_measured() -> None:
    model = vitrim.reduce_tokens(hf_vit(), "evit")
    labels = model(images(4)).logits.argmax(dim=1)
    assert evaluate(model, [(images(4), labels)]).top1 == 100
    with pytest.raises(ValueError, match=r"transformers.*images"):
        eval_transform(model)
    two = hf_clip()
    assert input_size_of(two.vision_model) == (3, 32, 32)
    assert count_macs(vitrim.reduce_tokens(two, "evit").vision_model) < count_macs(hf_clip().vision_model)
    with pytest.raises(ValueError, match=r"CLIPModel .*part"):
        count_macs(two)


def test_a_reduced_tower_inside_another_model_is_found() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tower = vitrim.reduce_tokens(hf_clip().vision_model, "evit")

    model = Both()
    assert find_stack(model) is not None
    assert find_stack(vitrim.restore(model)) is None
