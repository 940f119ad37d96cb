"""int8: a model computes close to what it did, goes on being reduced and restored, and says what it cannot do."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

import fresh
import vitrim
from vitrim.measure.peak_memory import PeakMemory
from vitrim.quantize import is_int8

pytest.importorskip("torchao", reason='needs the extra "int8"')

IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def cosine(one: Tensor, other: Tensor) -> float:
    return float(torch.cosine_similarity(one, other).mean())


def in_int8(model: nn.Module) -> nn.Module:
    return vitrim.quantize_int8(copy.deepcopy(model))


@torch.inference_mode()
def out(model: nn.Module, images: Tensor = IMAGES) -> Tensor:
    return model(images)


@pytest.mark.parametrize(("name", "settings"), [("evit", {"keep_rate": 0.7}), ("tome", {"r": 3})])
def test_logits_stay_those_of_the_float_model(name: str, settings: dict[str, Any], tmp_path: Path) -> None:
    """In all but the few images where rounding makes another patch stay, which moves their logits further."""
    from vitrim.models.embedded import demo_images

    model = vitrim.reduce_tokens(vitrim.load_model("vitrim_fashion_tiny"), name, **settings)
    images = vitrim.load_images(model, demo_images(tmp_path / "fashion"), limit=50).sample(50)
    cosine_B = torch.cosine_similarity(out(in_int8(model), images), out(model, images))
    assert cosine_B.median() >= 0.999
    assert cosine_B.mean() >= 0.995


@pytest.mark.slow
def test_deit_tiny_stays_close_and_its_reduced_forms_closer_than_their_token_choices_allow(
    deit_checkpoint: Path, imagenet_val: Path
) -> None:
    """Rounding tips choices of tokens: bf16, sixteen times finer than int8, already moves reduced logits further."""
    model = vitrim.load_model("deit_tiny_patch16_224", deit_checkpoint)
    images = vitrim.load_images(model, imagenet_val, limit=16).sample(16)
    assert cosine(out(in_int8(model), images), out(model, images)) >= 0.999
    for name, settings, least in (("evit", {"keep_rate": 0.7}, 0.995), ("tome", {"r": 13}, 0.98)):
        reduced = vitrim.reduce_tokens(copy.deepcopy(model), name, **settings)
        assert cosine(out(in_int8(reduced), images), out(reduced, images)) >= least


@pytest.mark.parametrize("inattentive", ["conv", "mlp"])
def test_what_a_method_learned_computes_in_int8_too(
    tiny_vit: Callable[..., VisionTransformer], inattentive: str
) -> None:
    model = vitrim.reduce_tokens(tiny_vit(depth=4), vitrim.BeyondAttentive(inattentive=inattentive))
    assert cosine(out(in_int8(model)), out(model)) >= 0.99


def test_reducing_before_and_after_is_the_same_and_restoring_gives_all_tokens_in_int8(
    tiny_vit: Callable[..., VisionTransformer],
) -> None:
    whole = tiny_vit(depth=4)
    before = vitrim.quantize_int8(vitrim.reduce_tokens(copy.deepcopy(whole), "evit", keep_rate=0.5))
    after = vitrim.reduce_tokens(in_int8(whole), "evit", keep_rate=0.5)
    assert torch.equal(out(before), out(after))
    assert not torch.equal(out(before), out(in_int8(whole)))
    for model in (before, after):
        assert torch.equal(out(vitrim.restore(model)), out(in_int8(whole)))
        assert is_int8(model)
    assert not is_int8(whole)


def test_twice_does_no_harm(tiny_vit: Callable[..., VisionTransformer]) -> None:
    once = in_int8(tiny_vit(depth=2))
    assert torch.equal(out(in_int8(once)), out(once))


def test_packed_projections_of_torchs_attention_stay_as_they_are() -> None:
    from torchvision.models import VisionTransformer as Torchvision

    model = Torchvision(32, 8, 4, 4, 48, 96, num_classes=10).eval()
    model = vitrim.quantize_int8(vitrim.reduce_tokens(model, "evit", keep_rate=0.5))
    attention, mlp = model.encoder.layers[0].self_attention, model.encoder.layers[0].mlp
    assert type(attention.in_proj_weight) is type(attention.out_proj.weight) is nn.Parameter
    assert is_int8(mlp)
    assert out(model).isfinite().all()
    assert out(vitrim.restore(model)).isfinite().all()


def test_multiply_adds_are_those_of_the_float_model_and_weights_take_a_quarter_of_the_memory(
    tiny_vit: Callable[..., VisionTransformer],
) -> None:
    model = vitrim.reduce_tokens(tiny_vit(depth=4), "evit", keep_rate=0.5)
    assert vitrim.count_macs(in_int8(model)) == vitrim.count_macs(model)
    weight = nn.Sequential(nn.Linear(256, 256, bias=False)).eval()
    bytes_of = [PeakMemory(list(each.parameters())).peak_bytes for each in (weight, in_int8(weight))]
    assert bytes_of[0] == 4 * 256 * 256
    assert bytes_of[1] < 0.3 * bytes_of[0]


def test_what_cannot_be_done_is_told(tiny_vit: Callable[..., VisionTransformer]) -> None:
    with pytest.raises(ValueError, match=r"model\.eval\(\)"):
        vitrim.quantize_int8(tiny_vit(depth=2).train())
    with pytest.raises(ValueError, match=r"Conv2d.*linear layers"):
        vitrim.quantize_int8(nn.Conv2d(1, 1, 1).eval())


def test_a_quantised_model_is_not_saved(tmp_path: Path) -> None:
    model = vitrim.quantize_int8(vitrim.build_model("vitrim_fashion_tiny"))
    with pytest.raises(ValueError, match="quantised"):
        vitrim.save_pretrained(model, tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


def test_the_extra_is_named_where_torchao_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    with pytest.raises(ValueError, match=r'pip install "vitrim\[int8\]"'):
        vitrim.quantize_int8(nn.Linear(2, 2).eval())


def test_importing_torchao_prints_nothing_and_other_lines_of_that_log_still_come() -> None:
    code = "import logging; from vitrim.quantize import check_torchao; check_torchao()\n"
    code += "logging.getLogger('torch.utils._pytree').warning('X is an Enum subclass')"
    done = fresh.run(["-c", code])
    assert (done.returncode, done.stdout) == (0, "")
    assert len(done.stderr.splitlines()) == 1
    assert "X is an Enum subclass" in done.stderr
