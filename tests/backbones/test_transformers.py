"""Models of transformers stay what they are: pipelines, the Trainer, files, checkpointing; what cannot work refuses."""

from __future__ import annotations

import copy
import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

import vitrim
from library_models import DEPTH, HF, PATCHES, images, of_transformers, output, stack_of, two_towers
from vitrim.backbones.reader import find_stack, read_backbone, restored
from vitrim.measure.evaluate import evaluate
from vitrim.measure.macs import count_macs
from vitrim.measure.model_input import eval_transform, input_size_of

transformers = pytest.importorskip("transformers")


def vit(**settings: Any) -> Any:
    return of_transformers("ViTForImageClassification", "ViTConfig", **HF, num_labels=10, **settings)


def dinov3(**settings: Any) -> Any:
    return of_transformers("DINOv3ViTModel", "DINOv3ViTConfig", **HF, num_register_tokens=4, **settings)


def clip() -> Any:
    return two_towers("CLIPModel", "CLIPConfig", projection_dim=24)


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
    whole, inner = vit(), vit()
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
    model = vit()
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
    model = vitrim.reduce_tokens(vit(), "evit-nofuse", keep_rate=0.5, layers=(0,))
    out = model.vit(torch.randn(1, 3, 48, 48), interpolate_pos_encoding=True)
    assert out.last_hidden_state.shape[1] == 1 + 72


def test_the_image_classification_pipeline_works() -> None:
    from PIL import Image

    processor = transformers.ViTImageProcessor(size={"height": 32, "width": 32})
    model = vit()
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
    model = vitrim.reduce_tokens(vit(), "tome", r=5)
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
    model = vit()
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
    model = vit()
    wanted = model(images()).logits
    model.save_pretrained(tmp_path / "plain")
    vitrim.reduce_tokens(model, vitrim.METR(method=vitrim.EViT())).save_pretrained(tmp_path / "reduced")
    more = set(keys_of(tmp_path / "reduced")) - set(keys_of(tmp_path / "plain"))
    blocks = {key.partition(".method.exit.")[0] for key in more}  # the library saves them under names of its own
    assert {block.rpartition(".")[2] for block in blocks} == {"1", "2", "3"}
    loaded = transformers.ViTForImageClassification.from_pretrained(tmp_path / "reduced")
    assert torch.equal(loaded.eval()(images()).logits, wanted)


def test_the_exits_of_metr_tell_their_logits() -> None:
    model = vitrim.reduce_tokens(vit(), vitrim.METR(method=vitrim.EViT())).train()
    told: list[Any] = []
    stack_of(model).collect_outputs(told)
    logits = model(images()).logits
    assert [exit_BK.shape for exit_BK in told[0].collected("metr")] == [logits.shape] * 3


@torch.no_grad()
def test_zero_shot_classification_works_end_to_end_and_text_is_untouched() -> None:
    model = clip()
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


@pytest.mark.parametrize("what", ["output_hidden_states", "output_attentions"])
@pytest.mark.parametrize("family", ["vit", "dinov2", "dinov3", "clip", "siglip"])
def test_recording_what_blocks_return_refuses_and_works_again_after_restore(family: str, what: str) -> None:
    model = {
        "vit": vit,
        "dinov2": lambda: of_transformers("Dinov2Model", "Dinov2Config", **HF),
        "dinov3": dinov3,
        "clip": lambda: of_transformers("CLIPVisionModelWithProjection", "CLIPVisionConfig", **HF),
        "siglip": lambda: of_transformers("SiglipVisionModel", "SiglipVisionConfig", **HF),
    }[family]()
    model.set_attn_implementation("eager")
    twin = copy.deepcopy(model)
    vitrim.reduce_tokens(model, "tome", r=5)
    refused = pytest.raises(ValueError, match=rf"{what}.*vitrim.features\(model, images\)")
    with refused:
        model(images(), **{what: True})
    setattr(model.config, what, True)
    with refused:
        model(images())
    setattr(model.config, what, False)
    assert model(images())[0].isfinite().all()
    name = what.removeprefix("output_")
    with restored(model):
        found, wanted = (getattr(each(images(), **{what: True}), name) for each in (model, twin))
    assert len(found) == len(wanted) == DEPTH + (what == "output_hidden_states")
    assert all(torch.equal(*pair) for pair in zip(found, wanted, strict=True))
    with refused:
        model(images(), **{what: True})


def test_blocks_called_past_the_model_refuse_too() -> None:
    stack = stack_of(vitrim.reduce_tokens(vit(), "evit"))
    with pytest.raises(ValueError, match="output_attentions"):
        stack[0](torch.randn(1, 65, 48), None, output_attentions=True)


def test_an_attention_mask_is_refused() -> None:
    model = vitrim.reduce_tokens(vit(), "evit")
    with pytest.raises(ValueError, match="attention mask"):
        model(images(), attention_mask=torch.tensor([[1] * 60 + [0] * 5] * 2))


@pytest.mark.parametrize("family", ["vit", "dinov2", "dinov3", "clip"])
@torch.no_grad()
def test_an_exported_model_equals_the_eager_one(family: str) -> None:
    model = {
        "vit": vit,
        "dinov2": lambda: of_transformers("Dinov2Model", "Dinov2Config", **HF),
        "dinov3": dinov3,
        "clip": lambda: of_transformers("CLIPVisionModel", "CLIPVisionConfig", **HF),
    }[family]()
    vitrim.reduce_tokens(model, "evit")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(model, (images(),))
    torch.testing.assert_close(program.module()(images())[0], model(images())[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("when", ["before", "after"])
def test_gradient_checkpointing_gives_the_same_gradients(when: str) -> None:
    model, twin = vit(), vit()
    if when == "before":
        twin._set_gradient_checkpointing(True, checkpoint)
    for each in (model, twin):
        vitrim.reduce_tokens(each, "tome", r=5).train()
    if when == "after":
        twin._set_gradient_checkpointing(True, checkpoint)
    CALLS.clear()
    outputs = [each(images()).logits for each in (model, twin)]
    assert len(CALLS) == DEPTH
    assert torch.equal(*outputs)
    for out in outputs:
        out.square().sum().backward()
    for mine, other in zip(model.parameters(), twin.parameters(), strict=True):
        assert mine.grad is not None
        assert other.grad is not None
        assert torch.equal(mine.grad, other.grad)
    vitrim.restore(twin)(images())
    assert len(CALLS) == 2 * DEPTH  # it stays on


def test_augmented_rotations_and_gradient_checkpointing_are_followed_in_training() -> None:
    settings = {"pos_embed_shift": 0.3, "pos_embed_jitter": 1.5, "pos_embed_rescale": 2.0, "drop_path_rate": 0.0}
    model = dinov3(**settings).train()
    outputs = []
    for method in (None, vitrim.EViT(keep_rate=1.0), vitrim.EViT(keep_rate=0.5)):
        if method is not None:
            vitrim.reduce_tokens(model, method)
        torch.manual_seed(7)
        outputs.append(model(images()).pooler_output)
    assert torch.equal(outputs[0], outputs[1])
    twin = copy.deepcopy(model)
    twin._set_gradient_checkpointing(True, checkpoint)
    torch.manual_seed(7)
    again = twin(images()).pooler_output
    assert torch.equal(again, outputs[2])
    for out in (again, outputs[2]):
        out.square().sum().backward()
    for mine, other in zip(stack_of(model).parameters(), stack_of(twin).parameters(), strict=True):
        assert mine.grad is not None
        assert torch.equal(mine.grad, other.grad)


@torch.no_grad()
def test_rotations_follow_another_resolution() -> None:
    model, x = dinov3(), torch.randn(2, 3, 24, 40)
    wanted = model(x).last_hidden_state
    assert torch.equal(vitrim.reduce_tokens(model, "evit", keep_rate=1.0)(x).last_hidden_state, wanted)
    vitrim.reduce_tokens(model, "evit-nofuse", keep_rate=0.5, layers=(0,))
    assert model(x).last_hidden_state.shape[1] == 5 + 30


def test_blocks_that_turn_otherwise_are_refused() -> None:
    model = dinov3()
    original = model.model.layer[1].forward
    model.model.layer[1].forward = lambda x, mask, position_embeddings: original(x, mask, position_embeddings[::-1])
    with pytest.raises(vitrim.UnsupportedModel, match=r"block 1 \(DINOv3ViTLayer, transformers .*wrongly"):
        vitrim.reduce_tokens(model, "evit")


CALLS: list[None] = []


def checkpoint(function: Any, *args: Any) -> Any:
    from torch.utils.checkpoint import checkpoint

    CALLS.append(None)
    return checkpoint(function, *args, use_reentrant=False)


def test_the_public_switch_of_gradient_checkpointing_is_heard() -> None:
    model = vitrim.reduce_tokens(vit(), "evit").train()
    switch = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    switch()
    assert all(block.gradient_checkpointing for block in stack_of(model))
    model(images()).logits.sum().backward()


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
def test_reentrant_checkpointing_is_refused() -> None:
    from functools import partial

    from torch.utils.checkpoint import checkpoint

    model = vitrim.reduce_tokens(vit(), "evit").train()
    model._set_gradient_checkpointing(True, partial(checkpoint, use_reentrant=True))
    with pytest.raises(ValueError, match="use_reentrant=False"):
        model(images())


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@torch.no_grad()
def test_the_attention_that_was_asked_for_does_not_change_the_result(attention: str) -> None:
    model = vit()
    wanted = vitrim.reduce_tokens(vit(), "evit")(images()).logits
    model.set_attn_implementation(attention)
    assert torch.equal(vitrim.reduce_tokens(model, "evit")(images()).logits, wanted)
    assert model.config._attn_implementation == attention


def test_patches_can_be_traced() -> None:
    model = vitrim.reduce_tokens(vit(), "evit", keep_rate=0.5)
    with vitrim.trace(model) as trace:
        model(images())
    assert trace.grid == (8, 8)
    assert [layer.num_tokens for layer in trace.layers] == [34, 19, 11]


def test_accuracy_and_multiply_adds_are_measured() -> None:
    model = vitrim.reduce_tokens(vit(), "evit")
    labels = model(images(4)).logits.argmax(dim=1)
    assert evaluate(model, [(images(4), labels)]).top1 == 100
    with pytest.raises(ValueError, match=r"transformers.*images"):
        eval_transform(model)
    two = clip()
    assert input_size_of(two.vision_model) == (3, 32, 32)
    assert count_macs(vitrim.reduce_tokens(two, "evit").vision_model) < count_macs(clip().vision_model)
    with pytest.raises(ValueError, match=r"CLIPModel .*part"):
        count_macs(two)


REFUSED = {
    "BeitForImageClassification": ("BeitConfig", "relative position"),
    "DINOv3ViTBackbone": ("DINOv3ViTConfig", "patch grid"),
    "SwinForImageClassification": ("SwinConfig", "vitrim reads ViT"),
    "ResNetForImageClassification": ("ResNetConfig", "vitrim reads ViT"),
    "ViTForMaskedImageModeling": ("ViTConfig", "grid"),
    "Dinov2Backbone": ("Dinov2Config", "patch grid"),
    "CLIPTextModel": ("CLIPTextConfig", "text tower"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_models_are_refused_in_one_line(name: str) -> None:
    config, reason = REFUSED[name]
    with torch.device("meta"):
        model = getattr(transformers, name)(getattr(transformers, config)())
    with pytest.raises(vitrim.UnsupportedModel, match=rf"{name} .*{reason}.*transformers \d") as error:
        vitrim.reduce_tokens(model, "evit")
    assert "\n" not in str(error.value)
    assert find_stack(model) is None


def test_a_version_that_lays_its_blocks_out_otherwise_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = vit()
    model.vit.encoder = nn.Module()  # as transformers 4 did
    model.vit.encoder.layer = model.vit.layers
    del model.vit.layers
    monkeypatch.setattr("vitrim.backbones.transformers.version", lambda library: f"{library} 4.57.6")
    wanted = r"ViTLayer.*transformers 5\.20 to 5\.23.*transformers 4\.57\.6"
    with pytest.raises(vitrim.UnsupportedModel, match=wanted) as error:
        vitrim.reduce_tokens(model, "evit")
    assert "\n" not in str(error.value)
    assert find_stack(model) is None


def test_a_block_that_computes_something_else_is_refused() -> None:
    model = vit()
    original = model.vit.layers[1].forward
    model.vit.layers[1].forward = lambda x, mask: 2 * original(x, mask) - x
    with pytest.raises(vitrim.UnsupportedModel, match=r"block 1 \(ViTLayer, transformers .*wrongly"):
        vitrim.reduce_tokens(model, "evit")


def test_a_wrapper_around_timm_points_to_the_model_inside() -> None:
    settings = {"architecture": "vit_tiny_patch16_224", "num_labels": 10, "model_args": {"depth": 4}}
    model = transformers.TimmWrapperForImageClassification(transformers.TimmWrapperConfig(**settings)).eval()
    with pytest.raises(vitrim.UnsupportedModel, match=r"reduce_tokens\(model.timm_model"):
        vitrim.reduce_tokens(model, "evit")
    vitrim.reduce_tokens(model.timm_model, "evit")
    assert model(torch.randn(1, 3, 224, 224)).logits.shape == (1, 10)
    assert find_stack(model) is not None
    assert find_stack(vitrim.restore(model)) is None


def test_a_reduced_tower_inside_another_model_is_found() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tower = vitrim.reduce_tokens(clip().vision_model, "evit")

    model = Both()
    assert find_stack(model) is not None
    assert find_stack(vitrim.restore(model)) is None
