"""Blocks that are shared, patched, or set to another attention: run as the library runs them, or refused."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torchvision
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

import vitrim

transformers = pytest.importorskip("transformers")
SMALL = {"hidden_size": 48, "num_hidden_layers": 4, "num_attention_heads": 3, "intermediate_size": 96, "image_size": 32}


def of_timm() -> Any:
    return VisionTransformer(img_size=32, patch_size=4, embed_dim=48, depth=4, num_heads=3, num_classes=5)


def of_torchvision() -> Any:
    return torchvision.models.VisionTransformer(32, 4, 4, 3, 48, 96)


def of_transformers(**settings: Any) -> Any:
    return transformers.ViTForImageClassification(transformers.ViTConfig(**SMALL, patch_size=4, **settings))


def blocks_of(model: Any) -> nn.Module:
    if isinstance(model, VisionTransformer):
        return model.blocks
    blocks: nn.Module = model.vit.layers if hasattr(model, "vit") else model.encoder.layers
    return blocks


def logits(model: Any) -> Tensor:
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        out = model(images)
    found: Tensor = getattr(out, "logits", out)
    return found


def make(build: Callable[[], Any]) -> Any:
    torch.manual_seed(0)
    model = build().eval()
    for weight in model.parameters():
        nn.init.normal_(weight, std=0.2)  # torchvision's head starts at zero
    return model


def share(model: Any) -> Any:
    """The second block stands in the place of the third too."""
    places = blocks_of(model)._modules
    names = list(places)
    places[names[2]] = places[names[1]]
    return model


every_library = pytest.mark.parametrize("build", [of_timm, of_torchvision, of_transformers])


@every_library
def test_a_block_that_stands_twice_runs_twice(build: Callable[[], Any]) -> None:
    model = share(make(build))
    apart = copy.deepcopy(model)
    places = blocks_of(apart)._modules
    places[list(places)[2]] = copy.deepcopy(places[list(places)[1]])
    wanted, keys = logits(model), list(model.state_dict())
    vitrim.reduce_tokens(model, "evit", keep_rate=1.0)
    assert torch.equal(logits(model), wanted)
    assert list(model.state_dict()) == keys
    reduced = logits(vitrim.reduce_tokens(model, "evit", keep_rate=0.5, layers=(1, 2)))
    assert not torch.equal(reduced, wanted)
    assert torch.equal(reduced, logits(vitrim.reduce_tokens(apart, "evit", keep_rate=0.5, layers=(1, 2))))
    assert torch.equal(logits(vitrim.restore(model)), wanted)
    places = blocks_of(model)._modules
    assert places[list(places)[1]] is places[list(places)[2]]


def test_what_learns_in_each_block_is_refused_for_a_block_that_stands_twice() -> None:
    model = share(make(of_timm))
    with pytest.raises(ValueError, match=r"several places|deepcopy"):
        vitrim.reduce_tokens(model, "metr", exits=(1, 2))
    assert logits(model).isfinite().all()


@pytest.fixture
def mine() -> Iterator[str]:
    """A user's own attention under a name of its own."""

    def attention(*parts: Any, **_: Any) -> tuple[Tensor, None]:
        return (2 * parts[3]).transpose(1, 2), None

    transformers.AttentionInterface.register("mine", attention)
    yield "mine"
    del transformers.AttentionInterface._global_mapping["mine"]


def test_an_attention_of_the_users_own_is_refused_when_reducing(mine: str) -> None:
    model = make(of_transformers)
    model.set_attn_implementation(mine)
    wanted = logits(model)
    with pytest.raises(vitrim.UnsupportedModel, match=r"attn_implementation 'mine'.*sdpa"):
        vitrim.reduce_tokens(model, "evit", keep_rate=0.5)
    assert torch.equal(logits(model), wanted)


def test_an_attention_of_the_users_own_is_refused_where_it_is_set_later(mine: str) -> None:
    model = vitrim.reduce_tokens(make(of_transformers), "evit", keep_rate=0.5)
    model.set_attn_implementation(mine)
    with pytest.raises(vitrim.UnsupportedModel, match=r"attn_implementation 'mine'.*sdpa"):
        logits(model)


def test_a_function_in_the_place_of_the_librarys_own_is_refused() -> None:
    model, mapping = make(of_transformers), transformers.AttentionInterface._global_mapping
    own = mapping["sdpa"]
    try:
        transformers.AttentionInterface.register("sdpa", lambda *_, **__: (_[3].transpose(1, 2), None))
        with pytest.raises(vitrim.UnsupportedModel, match="attn_implementation 'sdpa'"):
            vitrim.reduce_tokens(model, "evit", keep_rate=0.5)
    finally:
        mapping["sdpa"] = own


@every_library
@pytest.mark.parametrize("inside", [False, True], ids=["block", "attention"])
def test_a_forward_put_on_a_block_or_its_attention_is_refused(build: Callable[[], Any], inside: bool) -> None:
    model = make(build)
    part = list(blocks_of(model).children())[2]
    if inside:
        part = next(child for name, child in part.named_children() if "attention" in name or name == "attn")
    theirs = part.forward
    part.forward = lambda *args, **kwargs: theirs(*args, **kwargs)
    with pytest.raises(vitrim.UnsupportedModel, match=r"block 2.*forward"):
        vitrim.reduce_tokens(model, "evit", keep_rate=0.5)


def without_the_fused_kernel() -> Any:
    model = of_timm()
    for block in model.blocks:
        block.attn.fused_attn = False
    return model


@pytest.mark.parametrize(
    "build", [without_the_fused_kernel, lambda: of_transformers(attn_implementation="eager")], ids=["timm", "eager"]
)
def test_keeping_all_is_bit_identical_without_the_fused_kernel_too(build: Callable[[], Any]) -> None:
    model = make(build)
    wanted = logits(model)
    assert torch.equal(logits(vitrim.reduce_tokens(model, "evit", keep_rate=1.0)), wanted)
    assert not torch.equal(logits(vitrim.reduce_tokens(model, "evit", keep_rate=0.5)), wanted)
