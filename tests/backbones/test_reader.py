"""Which models are read, which are refused, and that a refusal leaves the model as it was."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import timm
import torch
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

import vitrim
from vitrim.backbones.reader import find_stack, read_backbone, restored

REFUSED = {
    "resnet18": "ResNet",
    "swin_tiny_patch4_window7_224": "SwinTransformer",
    "naflexvit_base_patch16_gap": "NaFlexVit",
    "beit_base_patch16_224": "Beit",
    "vit_relpos_small_patch16_224": "VisionTransformerRelPos",
    "cait_xxs24_224": "Cait",
    "samvit_base_patch16": "VisionTransformerSAM",
}


@pytest.mark.parametrize("name", REFUSED)
def test_another_architecture_is_refused_in_one_line_and_left_untouched(name: str) -> None:
    with torch.device("meta"):
        model = timm.create_model(name)
    modules, state = list(model.modules()), list(model.state_dict())
    wanted = rf"{name} .*{REFUSED[name]}.*Vision Transformers.*timm \d"
    with pytest.raises(vitrim.UnsupportedModel, match=wanted) as error:
        vitrim.reduce_tokens(model, "evit")
    assert "\n" not in str(error.value)
    assert all(mine is other for mine, other in zip(modules, model.modules(), strict=True))
    assert list(model.state_dict()) == state


@pytest.mark.parametrize(
    ("name", "block"),
    [
        ("vit_small_patch16_18x2_224", "ParallelThingsBlock"),
        ("vit_base_patch16_xp_224", "ParallelScalingBlock"),
    ],
)
def test_parallel_blocks_are_refused_by_name(name: str, block: str) -> None:
    if name not in timm.list_models():
        pytest.skip(f"this timm has no {name}")
    with torch.device("meta"):
        model = timm.create_model(name)
    with pytest.raises(vitrim.UnsupportedModel, match=rf"{name}: block 0 .*{block}.*Block"):
        vitrim.reduce_tokens(model, "evit")


def test_a_module_of_no_known_library_is_refused() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(vitrim.UnsupportedModel, match=r"Sequential .*timm"):
        vitrim.reduce_tokens(model, "evit")


def test_a_wrapper_is_refused_with_a_pointer_to_its_part(tiny_vit: Callable[..., VisionTransformer]) -> None:
    class Wrapper(nn.Module):
        def __init__(self, backbone: nn.Module):
            super().__init__()
            self.backbone = backbone

    wrapper = Wrapper(tiny_vit())
    with pytest.raises(vitrim.UnsupportedModel, match=r"reduce_tokens\(model.backbone,"):
        vitrim.reduce_tokens(wrapper, "evit")
    vitrim.reduce_tokens(wrapper.backbone, "evit")
    assert find_stack(wrapper) is not None
    vitrim.restore(wrapper)
    assert find_stack(wrapper) is None


def test_unsupported_model_is_a_value_error() -> None:
    assert issubclass(vitrim.UnsupportedModel, ValueError)


class TwiceTheMLP(Block):
    """A block whose forward differs from its parent's."""

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        x = x + self.ls1(self.attn(self.norm1(x), attn_mask=attn_mask, is_causal=is_causal))
        return x + 2 * self.ls2(self.mlp(self.norm2(x)))


scales = pytest.mark.parametrize("init_values", [None, 1e-5], ids=["plain", "layer_scale_1e-5"])


@scales
def test_a_subclass_of_a_known_block_is_refused(
    tiny_vit: Callable[..., VisionTransformer], init_values: float | None
) -> None:
    model, images = tiny_vit(block_fn=TwiceTheMLP, init_values=init_values), torch.randn(1, 3, 32, 32)
    wanted = model(images)
    with pytest.raises(vitrim.UnsupportedModel, match=r"block 0 .*TwiceTheMLP.*Block,.*timm \d"):
        vitrim.reduce_tokens(model, "evit")
    assert torch.equal(model(images), wanted)


@scales
@pytest.mark.parametrize("layer", [0, 7, 11])
def test_a_block_that_computes_something_else_is_refused(
    tiny_vit: Callable[..., VisionTransformer], init_values: float | None, layer: int
) -> None:
    model, images = tiny_vit(init_values=init_values), torch.randn(1, 3, 32, 32)
    block = model.blocks[layer]
    block.forward = TwiceTheMLP.forward.__get__(block)
    wanted = model(images)
    expected = rf"VisionTransformer: block {layer} \(Block, timm \d[\w.]*\) .*wrongly.* \d+\.\d%"
    with pytest.raises(vitrim.UnsupportedModel, match=expected) as error:
        vitrim.reduce_tokens(model, "evit")
    assert "\n" not in str(error.value)
    assert torch.equal(model(images), wanted)
    assert find_stack(model) is None


@scales
def test_an_attention_that_computes_something_else_is_refused(
    tiny_vit: Callable[..., VisionTransformer], init_values: float | None
) -> None:
    model = tiny_vit(init_values=init_values)
    attention = model.blocks[5].attn
    original = attention.forward
    attention.forward = lambda x, **masks: original(x, **masks).roll(1, dims=1)
    with pytest.raises(vitrim.UnsupportedModel, match=r"block 5 \(Block, timm \d.*wrongly"):
        vitrim.reduce_tokens(model, "evit")


def test_a_wrong_block_is_refused_in_bf16_under_a_small_layer_scale(
    tiny_vit: Callable[..., VisionTransformer],
) -> None:
    model = tiny_vit(init_values=1e-5).bfloat16()
    block = model.blocks[3]
    block.forward = TwiceTheMLP.forward.__get__(block)
    with pytest.raises(vitrim.UnsupportedModel):
        vitrim.reduce_tokens(model, "evit")


@scales
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("fused", [True, False])
def test_the_self_check_accepts_every_precision_and_attention_kernel(
    tiny_vit: Callable[..., VisionTransformer], init_values: float | None, dtype: torch.dtype, fused: bool
) -> None:
    model = tiny_vit(init_values=init_values).to(dtype)
    for block in model.blocks:
        block.attn.fused_attn = fused
    vitrim.reduce_tokens(model, "evit")


def test_the_self_check_leaves_modes_and_generators_alone(tiny_vit: Callable[..., VisionTransformer]) -> None:
    model = tiny_vit(drop_path_rate=0.2).train()
    model.blocks[4].mlp.eval()
    modes = [module.training for module in model.modules()]
    state = torch.get_rng_state()
    vitrim.restore(vitrim.reduce_tokens(model, "evit"))
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_check_runs_on_reduced_models_too(tiny_vit: Callable[..., VisionTransformer]) -> None:
    model = vitrim.reduce_tokens(tiny_vit(), "evit")
    assert read_backbone(model).spec == read_backbone(tiny_vit()).spec
    assert find_stack(model) is not None


def test_restored_gives_the_plain_model_for_a_while(tiny_vit: Callable[..., VisionTransformer]) -> None:
    model, images = tiny_vit(), torch.randn(1, 3, 32, 32)
    plain = model(images)
    reduced = vitrim.reduce_tokens(model, "evit", keep_rate=0.5)(images)
    with restored(model):
        assert torch.equal(model(images), plain)
        assert model.forward_intermediates(images, intermediates_only=True)
    assert torch.equal(model(images), reduced)
    with pytest.raises(KeyError, match="by the user"), restored(model):
        raise KeyError("by the user")
    assert torch.equal(model(images), reduced)
    vitrim.restore(model)
    with restored(model):
        assert torch.equal(model(images), plain)


def test_a_reduced_teacher_stays_reduced(tiny_vit: Callable[..., VisionTransformer]) -> None:
    student = tiny_vit()
    student.teacher = vitrim.reduce_tokens(tiny_vit(), "evit")
    vitrim.reduce_tokens(student, "tome", r=2)
    assert find_stack(student.teacher) is not None
    assert find_stack(student) is not None


def test_a_model_on_the_meta_device_can_be_reduced(tiny_vit: Callable[..., VisionTransformer]) -> None:
    model = vitrim.reduce_tokens(tiny_vit().to("meta"), "evit")
    assert model(torch.randn(1, 3, 32, 32, device="meta")).shape == (1, 10)
