"""Forwards that begin at a block compute what whole ones do, in every library."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from timm.models.eva import Eva
from torch import nn

import vitrim
from library_models import HF, images, of_open_clip, of_transformers, scrambled, torchvision_vit
from vitrim.backbones.reader import read_backbone
from vitrim.tuning.resume import Resumable
from vitrim.tuning.sample import answers_for


def timm_rope() -> nn.Module:
    model = Eva(32, 4, embed_dim=48, depth=5, num_heads=3, num_classes=10, use_rot_pos_emb=True, ref_feat_shape=(8, 8))
    return scrambled(model)


MODELS: dict[str, Callable[[], nn.Module]] = {
    "timm_rope": timm_rope,
    "torchvision": torchvision_vit,
    "transformers": lambda: of_transformers("ViTForImageClassification", "ViTConfig", **HF, num_labels=10),
    "dinov3": lambda: of_transformers("DINOv3ViTModel", "DINOv3ViTConfig", **HF, num_register_tokens=4),
    "open_clip": lambda: getattr(of_open_clip(), "visual"),  # noqa: B009  (untyped)
}


@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)
def test_a_forward_from_a_block_on_equals_the_whole_one_to_the_last_bit(build: Callable[[], nn.Module]) -> None:
    model = build()
    spec = read_backbone(model).spec
    answers = answers_for(model, spec.num_prefix)
    before, after = (vitrim.Ward(patches=(64, 64, *middle, 20)) for middle in ((50, 40, 30), (50, 40, 25)))
    vitrim.reduce_tokens(model, before)
    resumable = Resumable(model, [images(2), images(3)], answers)
    resumable.keep(before.built_for(spec))
    wanted = resumable.forward(after.built_for(spec), batch=1)
    resumable.forward(before.built_for(spec), batch=1, start=3)
    ran: list[int] = []
    for block in resumable.stack:
        block.register_forward_hook(lambda module, *_: ran.append(module.layer))
    resumed = resumable.forward(after.built_for(spec), batch=1, start=3)
    assert ran == [3, 4]
    assert torch.equal(resumed, wanted)
    assert not torch.equal(resumed, resumable.forward(before.built_for(spec), batch=1))


def test_where_memory_is_short_a_forward_begins_at_an_earlier_block(monkeypatch: pytest.MonkeyPatch) -> None:
    model = torchvision_vit()
    spec = read_backbone(model).spec
    method = vitrim.Ward(left=0.5).built_for(spec)
    vitrim.reduce_tokens(model, method)
    monkeypatch.setattr("vitrim.tuning.resume.MAX_BYTES", 3 * 2 * 65 * 48 * 4)  # three of the five blocks' tokens
    resumable = Resumable(model, [images(2)], answers_for(model, 1))
    resumable.keep(method)
    whole = resumable.forward(method, 0)
    assert not resumable._entering[0]  # nothing is stored before it is needed
    assert torch.equal(resumable.forward(method, 0, start=3), whole)
    assert sorted(resumable._entering[0]) == [2, 4]
