"""What timm, open_clip and peft do with a model, they do with a reduced one, or a sentence says why not."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import pytest
import timm.optim
import torch
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from timm.utils import AttentionExtract, ModelEmaV3
from torch import Tensor, nn

import library_models
import vitrim
from conformance import families
from library_models import images, of_open_clip, torchvision_vit

SMALL = {"img_size": 32, "patch_size": 4, "embed_dim": 48, "depth": 4, "num_heads": 3, "num_classes": 5}
of_timm = pytest.mark.parametrize("build", [VisionTransformer, Eva])


def evit(model: Any, **settings: Any) -> Any:
    return vitrim.reduce_tokens(model, "evit", **({"keep_rate": 0.5} | settings))


def needs(library: str) -> None:
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"needs {library}")


@of_timm
def test_layer_decay_groups_the_parameters_as_without(build: Callable[..., Any]) -> None:
    def groups(model: Any) -> list[Any]:
        name_of = {weight: name for name, weight in model.named_parameters()}
        made = timm.optim.create_optimizer_v2(model, "adamw", lr=1e-3, weight_decay=0.05, layer_decay=0.7)
        return [
            ([name_of[weight] for weight in group["params"]], group["lr_scale"], group["weight_decay"])
            for group in made.param_groups
        ]

    wanted = groups(build(**SMALL))
    assert len({scale for _, scale, _ in wanted}) == 6  # embedding, four blocks, head
    assert groups(evit(build(**SMALL))) == wanted


@of_timm
@torch.no_grad()
def test_an_average_of_weights_is_that_of_the_plain_model(build: Callable[..., Any]) -> None:
    averages = []
    for reduced in (False, True):
        torch.manual_seed(0)
        model = build(**SMALL)
        average = ModelEmaV3(evit(model) if reduced else model, decay=0.5)
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight))
        average.update(model, step=1)
        averages.append(vitrim.restore(average.module.eval())(images()))
    assert torch.equal(*averages)


@of_timm
@torch.no_grad()
def test_another_input_size_is_set_as_before_or_after(build: Callable[..., Any]) -> None:
    torch.manual_seed(0)
    model, x = build(**SMALL).eval(), torch.randn(1, 3, 48, 48)
    twin = build(**SMALL).eval()
    twin.load_state_dict(model.state_dict())
    for each in (evit(model), twin):
        each.set_input_size(img_size=(48, 48))
    assert torch.equal(model(x), evit(twin)(x))


@of_timm
def test_whoever_looks_for_the_attention_matrix_hears_that_there_is_none(build: Callable[..., Any]) -> None:
    model = build(**SMALL)
    for block in model.blocks:
        block.attn.fused_attn = False
    look = AttentionExtract(evit(model), method="hook")
    with pytest.raises(ValueError, match=r"attn_drop.*vitrim.trace"):
        look(images())


def test_a_tower_of_open_clip_is_locked_but_for_its_last_groups() -> None:
    needs("open_clip")
    model = of_open_clip()
    model.lock_image_tower(unlocked_groups=2)
    wanted = [name for name, weight in model.named_parameters() if weight.requires_grad]
    reduced = evit(of_open_clip())
    reduced.lock_image_tower(unlocked_groups=2)
    assert [name for name, weight in reduced.named_parameters() if weight.requires_grad] == wanted


class Adapted(nn.Linear):
    """A linear layer with something beside it, as an adapter of peft is."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class AdaptedAttention(nn.MultiheadAttention):
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return super().forward(*args, **kwargs)


@pytest.mark.parametrize("when", ["before", "after"])
@torch.no_grad()
def test_an_adapter_that_torchs_attention_does_not_call_is_not_called_while_reduced_either(when: str) -> None:
    wanted, model = evit(torchvision_vit())(images()), torchvision_vit()
    if when == "after":
        evit(model)
    for block in model.encoder.layers:
        block.self_attention.out_proj.__class__ = Adapted
    if when == "before":
        evit(model)
    assert torch.equal(model(images()), wanted)
    assert torch.equal(vitrim.restore(model)(images()), torchvision_vit()(images()))  # torch does not call it


def test_an_attention_that_is_replaced_while_reduced_is_refused() -> None:
    model = evit(torchvision_vit())
    model.encoder.layers[1].self_attention.__class__ = AdaptedAttention
    with pytest.raises(ValueError, match=r"AdaptedAttention.*restore"):
        model(images())


def test_a_wrapper_that_borrows_a_method_of_a_library_is_not_taken_for_its_model() -> None:
    needs("transformers")
    from transformers.utils import PushToHubMixin

    class Adapters(nn.Module, PushToHubMixin):  # type: ignore[misc]  # as a PeftModel is
        def __init__(self, model: nn.Module):
            super().__init__()
            self.base = nn.ModuleDict({"model": model})

    with pytest.raises(vitrim.UnsupportedModel, match=r"Adapters .*reduce_tokens\(model.base.model,"):
        evit(Adapters(library_models.torchvision_vit()))


@pytest.mark.parametrize("when", ["before", "after"])
@torch.no_grad()
def test_adapters_of_peft_act_and_are_merged(when: str) -> None:
    needs("peft")
    import peft

    def adapt(model: nn.Module) -> Any:
        torch.manual_seed(3)
        settings = peft.LoraConfig(r=4, target_modules=["qkv", "proj", "fc1"], init_lora_weights=False)
        return peft.get_peft_model(model, settings).eval()

    def small() -> Any:
        return families.small_model("vit")

    wanted = evit(adapt(small()).merge_and_unload())(images())
    adapted = adapt(evit(small()) if when == "after" else small())
    if when == "before":
        evit(adapted.get_base_model())
    torch.testing.assert_close(adapted(images()), wanted, atol=1e-5, rtol=1e-5)
    with adapted.disable_adapter():
        assert torch.equal(adapted(images()), evit(small())(images()))
    torch.testing.assert_close(adapted.merge_and_unload()(images()), wanted, atol=1e-5, rtol=1e-5)
