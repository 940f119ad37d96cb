"""What is read from torchvision's models."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn
from torchvision import models

import vitrim
from library_models import DEPTH, images, stack_of, torchvision_vit
from vitrim.backbones.reader import find_stack, read_backbone
from vitrim.class_attention import cls_quality
from vitrim.core.tokens import Tokens
from vitrim.measure.evaluate import evaluate
from vitrim.measure.model_input import eval_transform, input_size_of

FAST = "_native_multi_head_attention"


@pytest.mark.parametrize(("name", "patches", "channels"), [("vit_b_16", 196, 768), ("vit_h_14", 256, 1280)])
def test_the_facts_about_the_named_models_are_read(name: str, patches: int, channels: int) -> None:
    with torch.device("meta"):
        model = models.get_model(name)
    spec = read_backbone(model).spec
    assert (spec.num_prefix, spec.num_patches, spec.channels, spec.num_classes) == (1, patches, channels, 1000)
    assert spec.attention_macs == 4 * channels**2
    assert spec.mlp_macs == 8 * channels**2
    assert input_size_of(model) == (3, 224, 224)


def test_an_exchanged_head_sets_the_number_of_classes() -> None:
    model = torchvision_vit()
    model.heads = nn.Sequential(nn.Linear(48, 3))
    assert read_backbone(model).spec.num_classes == 3
    vitrim.reduce_tokens(model, vitrim.METR(method=vitrim.EViT()))
    assert stack_of(model)[1].weights.exit[-1].out_features == 3


def test_the_modules_own_fast_path_runs_where_nothing_is_reduced_and_only_there() -> None:
    from torch.profiler import profile

    model = torchvision_vit()
    with torch.inference_mode():
        with profile() as profiled:
            wanted = model(images())
        assert any(FAST in event.name for event in profiled.events())
        vitrim.reduce_tokens(model, "evit", keep_rate=1.0)
        with profile() as profiled:
            got = model(images())
        assert any(FAST in event.name for event in profiled.events())
        vitrim.reduce_tokens(model, "evit", keep_rate=(1.0, 1.0, 0.9))
        with profile() as profiled:
            model(images())
    assert not any(FAST in event.name for event in profiled.events())
    assert torch.equal(got, wanted)


@torch.no_grad()
def test_a_method_that_only_looks_on_sees_every_attention() -> None:
    rows = cls_quality(torchvision_vit(), [(images(), torch.zeros(2))])
    assert [row.layer for row in rows] == list(range(DEPTH))


@torch.no_grad()
def test_the_exits_of_metr_hear_where_nothing_is_reduced() -> None:
    model = vitrim.reduce_tokens(torchvision_vit(), vitrim.METR(method=vitrim.EViT(keep_rate=1.0)))
    told: list[Tokens] = []
    stack_of(model).collect_outputs(told)
    model(images())
    assert [exit_BK.shape for exit_BK in told[0].collected("metr")] == [(2, 10)] * 3


@torch.no_grad()
def test_the_fused_kernel_is_kept_in_exports_where_nothing_is_reduced() -> None:
    model = torchvision_vit()
    wanted = model(images())
    vitrim.reduce_tokens(model, "evit", keep_rate=1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(model, (images(),), dynamic_shapes=({0: torch.export.Dim("batch")},))
    assert not any(FAST in str(node.target) for node in program.graph.nodes)
    exported = program.module()
    torch.testing.assert_close(exported(images()), wanted, atol=3e-6, rtol=3e-6)
    torch.testing.assert_close(exported(images(5)), model(images(5)), atol=3e-6, rtol=3e-6)


def test_attention_dropout_is_heeded_in_training_only() -> None:
    model = vitrim.reduce_tokens(torchvision_vit(attention_dropout=0.5), "evit")
    assert torch.equal(model(images()), model(images()))
    model.train()
    assert not torch.equal(model(images()), model(images()))


def test_accuracy_is_measured_on_batches_that_the_user_prepares() -> None:
    model = vitrim.reduce_tokens(torchvision_vit(), "evit")
    labels = model(images(4)).argmax(dim=1)
    assert evaluate(model, [(images(4), labels)]).top1 == 100
    with pytest.raises(ValueError, match=r"torchvision.*transform"):
        eval_transform(model)


def test_patches_can_be_traced() -> None:
    model = vitrim.reduce_tokens(torchvision_vit(), "evit", keep_rate=0.5)
    with vitrim.trace(model) as trace:
        model(images())
    assert trace.grid == (8, 8)
    assert [layer.num_tokens for layer in trace.layers] == [34, 19, 11]


@pytest.mark.parametrize("name", ["resnet18", "swin_t"])
def test_other_architectures_are_refused_in_one_line(name: str) -> None:
    with torch.device("meta"):
        model = models.get_model(name)
    with pytest.raises(vitrim.UnsupportedModel, match=r"torchvision.*VisionTr") as error:
        vitrim.reduce_tokens(model, "evit")
    assert "\n" not in str(error.value)
    assert find_stack(model) is None


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"add_bias_kv": True}, "add_bias_kv"),
        ({"kdim": 48, "vdim": 48, "add_zero_attn": True}, "add_bias_kv"),
        ({"batch_first": False}, "batch_first=False"),
    ],
)
def test_an_attention_with_parts_of_its_own_is_refused(settings: dict[str, object], reason: str) -> None:
    model = torchvision_vit()
    model.encoder.layers[2].self_attention = nn.MultiheadAttention(48, 4, **({"batch_first": True} | settings))
    with pytest.raises(vitrim.UnsupportedModel, match=rf"block 2 \(torchvision .*: .*{reason}"):
        vitrim.reduce_tokens(model, "evit")


def test_a_subclass_of_the_attention_is_refused() -> None:
    class Sparse(nn.MultiheadAttention):
        pass

    model = torchvision_vit()
    model.encoder.layers[0].self_attention = Sparse(48, 4, batch_first=True)
    with pytest.raises(vitrim.UnsupportedModel, match=r"attention.* Sparse"):
        vitrim.reduce_tokens(model, "evit")


def test_a_block_that_computes_something_else_is_refused() -> None:
    model = torchvision_vit()
    original = model.encoder.layers[1].forward
    model.encoder.layers[1].forward = lambda x: 2 * original(x) - x
    with pytest.raises(vitrim.UnsupportedModel, match=r"block 1 .*wrongly"):
        vitrim.reduce_tokens(model, "evit")
