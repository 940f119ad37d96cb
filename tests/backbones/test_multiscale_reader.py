"""Methods on a multi-scale model: they act once its two groups are fused, and are refused before."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import vitrim
from every_method import FIXED, PLAIN, in_layers
from vitrim.backbones.reader import find_stack, read_backbone
from vitrim.core.block_reader import UnreadableReader
from vitrim.measure.budget.formula import block_macs, reduced_macs, token_counts
from vitrim.measure.budget.targets import method_for_macs
from vitrim.measure.macs import count_macs
from vitrim.models.multiscale import MultiscaleViT

FUSED = 2  # blocks that carry both groups
DEPTH = 6
LAYERS = (2, 4)
LATE_R = (0, 0, 5, 5, 5, 5)

# Methods whose counts of tokens are the same for every image; those of the others no formula tells.
every_method = pytest.mark.parametrize("name", vitrim.list_methods())
every_fixed_method = pytest.mark.parametrize("name", FIXED)


def small(**settings: Any) -> MultiscaleViT:
    """8 x 6 patches, and 4 x 3 of low scale; every parameter random."""
    defaults: dict[str, Any] = {
        "img_size": (32, 24),
        "patch_size": 4,
        "embed_dim": 24,
        "depth": DEPTH,
        "num_heads": 3,
        "num_classes": 10,
        "fusion_layer": FUSED,
    }
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model = MultiscaleViT(**(defaults | settings)).eval()
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model


def images(count: int = 2) -> Tensor:
    return torch.randn(count, 3, 32, 24, generator=torch.Generator().manual_seed(2))


def method_for(name: str, keep_rate: float = 0.7) -> vitrim.Method:
    per_block = 0 if keep_rate == 1 else LATE_R[-1]
    layers = LAYERS if PLAIN[name].first_layer == 0 else (3, 4)  # some read the block before
    return vitrim.create_method(name, **in_layers(name, layers, DEPTH, per_block=per_block, share=keep_rate))


def test_what_is_read() -> None:
    backbone = read_backbone(small())
    spec = backbone.spec
    assert (spec.depth, spec.num_prefix, spec.has_cls, spec.pools_patches) == (DEPTH, 1, True, False)
    assert (spec.num_patches, spec.channels, spec.num_heads, spec.first_reducible_layer) == (48, 24, 3, FUSED)
    assert [isinstance(reader, UnreadableReader) for reader in backbone.readers] == [True] * FUSED + [False] * 4


def test_the_real_model_reduces_where_the_paper_does() -> None:
    model = vitrim.reduce_tokens(vitrim.build_model("mf_deit_tiny_patch16_224"), "token_mergence", keep_rate=0.7)
    spec, method = model.blocks.spec, model.blocks.method
    assert (spec.name, spec.num_patches, spec.first_reducible_layer) == ("mf_deit_tiny_patch16_224", 196, 3)
    assert token_counts(spec, method) == (*[197] * 3, *[139] * 3, *[98] * 3, *[69] * 3)


@every_method
@torch.inference_mode()
def test_keeping_all_is_bit_identical_and_so_is_the_restored_model(name: str) -> None:
    model = small()
    wanted, keys = model(images()), set(model.state_dict())
    vitrim.reduce_tokens(model, method_for(name, keep_rate=1))
    assert torch.equal(model(images()), wanted)
    vitrim.reduce_tokens(model, method_for(name))
    assert not torch.equal(model(images()), wanted)
    assert keys <= set(model.state_dict())
    assert torch.equal(vitrim.restore(model)(images()), wanted)
    assert set(model.state_dict()) == keys


@every_method
@torch.inference_mode()
def test_a_batch_equals_its_images_one_by_one(name: str) -> None:
    model = vitrim.reduce_tokens(small(), method_for(name))
    one_by_one = torch.cat([model(image.unsqueeze(0)) for image in images(3)])
    torch.testing.assert_close(model(images(3)), one_by_one, atol=1e-5, rtol=1e-5)


@every_fixed_method
def test_the_formula_equals_the_counter(name: str) -> None:
    method = method_for(name)
    model = small()
    spec, unreduced = read_backbone(model).spec, count_macs(model)
    counted = count_macs(vitrim.reduce_tokens(model, method))
    exact = name in ("evit", "evit-nofuse", "feature_norm", "metr", "random", "tome", "token_mergence")
    predicted = reduced_macs(unreduced, spec, method)
    assert counted == predicted if exact else counted == pytest.approx(predicted, rel=0.005)


def test_the_formula_counts_the_blocks_that_run_as_a_whole() -> None:
    model = small()
    spec = read_backbone(model).spec
    embedding = (48 + 12) * 24 * 3 * 4 * 4
    assert count_macs(model) == block_macs(spec, None) + embedding + 24 * 10
    with pytest.raises(ValueError, match=r"48 patches.* 49"):
        block_macs(spec, None, 49)


@every_fixed_method
@torch.inference_mode()
def test_patches_are_traced_from_the_fusion_on(name: str) -> None:
    model = vitrim.reduce_tokens(small(), method_for(name))
    quiet = model(images())
    with vitrim.trace(model) as found:
        assert torch.equal(model(images()), quiet)
    assert (found.batch_size, found.num_patches, found.num_tokens, found.grid) == (2, 48, 49, (8, 6))
    spec, method = model.blocks.spec, model.blocks.method
    assert [layer.layer for layer in found.layers] == list(model.blocks.method.reducing_layers(model.blocks.spec))
    for layer in found.layers:
        assert layer.num_tokens == token_counts(spec, method)[layer.layer]
        assert layer.source_BP.shape == (2, 48)
        for source_P in layer.source_BP:  # every token stands for a patch
            assert set(range(1, layer.num_tokens)) == set(source_P.tolist()) - {-1}


@torch.inference_mode()
def test_the_first_trace_holds_the_tokens_that_were_kept() -> None:
    model = vitrim.reduce_tokens(small(), "evit-nofuse", keep_rate=0.5, layers=(2,))
    with vitrim.trace(model, features=True) as found:
        model(images())
    layer = found.layers[0]
    vitrim.restore(model)
    x = model.blocks[:2](model._pos_embed(model.patch_embed(images())))
    block = model.blocks[2]
    x = x + block.attn(block.norm1(x))
    wanted = (x + block.mlp(block.norm2(x)))[:, 1:]  # all 48 patches, none of them dropped
    held = layer.source_BP >= 0
    assert held.sum(dim=1).tolist() == [24, 24]
    assert layer.features_BNC is not None
    torch.testing.assert_close(layer.unmerge(layer.features_BNC, fill=0.0)[held], wanted[held])


@torch.inference_mode()
def test_a_head_that_averages_gets_every_patch_back() -> None:
    model = vitrim.reduce_tokens(small(global_pool="avg"), method_for("token_mergence"))
    features = model.forward_features(images())
    assert features.shape == (2, 49, 24)
    with vitrim.trace(model, features=True) as found:
        model(images())
    last = found.layers[-1]
    assert len(features[0, 1:].unique(dim=0)) == last.num_tokens - 1
    for place in (0, 17, 47):
        same = (features[0, 1:] == features[0, 1 + place]).all(dim=1)
        assert torch.equal(same, last.source_BP[0] == last.source_BP[0, place])


# What cannot be done before the fusion.

REFUSED = [
    (vitrim.EViT(layers=(1, 3)), "evit .*block 1"),
    (vitrim.ToMe(r=5), "tome .*block 0"),
    (vitrim.ToMe(r=(0, 3, 3, 3, 3, 3)), "tome .*block 1"),
    (vitrim.EViT(tokens=[47, *[None] * 5], keep_rate=1.0), "evit .*block 0"),  # fuses one: 48 stay 48
    (vitrim.METR(method=vitrim.EViT(layers=LAYERS), exits=(0, 4)), "metr .*block 0"),
]


@pytest.mark.parametrize(("method", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_a_method_that_would_act_there_is_refused(method: vitrim.Method, message: str) -> None:
    model = small()
    wanted = model(images())
    with pytest.raises(ValueError, match=f"{message}.*blocks 0 to 1 of MultiscaleViT") as error:
        vitrim.reduce_tokens(model, method)
    assert "block 2" in str(error.value) and "r=[0, 0, 4, 4, 4, 4]" in str(error.value)
    assert find_stack(model) is None
    assert torch.equal(model(images()), wanted)
    with pytest.raises(ValueError, match=message):
        block_macs(read_backbone(model).spec, method)


def test_a_method_that_would_act_there_cannot_be_swapped_in() -> None:
    model = vitrim.reduce_tokens(small(), vitrim.ToMe(r=LATE_R))
    wanted = model(images())
    with pytest.raises(ValueError, match=r"tome .*block 1"):
        model.blocks.set_method(vitrim.ToMe(r=(0, 5, 0, 0, 0, 0)))
    assert torch.equal(model(images()), wanted)
    model.blocks.set_method(vitrim.ToMe(r=(0, 0, 9, 0, 0, 0)))
    assert not torch.equal(model(images()), wanted)


def test_a_macs_target_is_spread_over_the_blocks_after_the_fusion() -> None:
    model = small()
    target = 0.93 * count_macs(model)
    method = method_for_macs(model, "tome", target / 1e9)
    assert isinstance(method, vitrim.ToMe)
    assert isinstance(method.r, list)
    assert method.r[:2] == [0, 0]
    assert max(method.r[2:]) - min(method.r[2:]) <= 1 and max(method.r) > 0
    assert 0.99 * target < count_macs(vitrim.reduce_tokens(model, method)) <= target


def test_hooks_of_methods_are_not_called_there() -> None:
    class Spy(vitrim.EViT):
        def before_block(self, layer: int, tokens: Any) -> Any:
            seen.append((layer, tokens.x_BNC.shape[1]))
            return tokens

    seen: list[tuple[int, int]] = []
    vitrim.reduce_tokens(small(), Spy(keep_rate=0.5, layers=(3,)))(images())
    assert seen == [(2, 49), (3, 49), (4, 26), (5, 26)]


# Training and the rest.


def test_it_trains_with_checkpointing_and_exits() -> None:
    grads = []
    for checkpointing in (False, True):
        model = vitrim.reduce_tokens(small(), "token_mergence", keep_rate=0.7, layers=LAYERS).train()
        model.set_grad_checkpointing(checkpointing)
        nn.functional.cross_entropy(model(images()), torch.tensor([1, 2])).backward()
        grads.append({name: parameter.grad for name, parameter in model.named_parameters()})
    for name, grad in grads[0].items():
        assert grad is not None and grad.abs().sum() > 0, name
        torch.testing.assert_close(grads[1][name], grad, msg=name)


def test_what_is_published_counts_patches_after_the_fusion() -> None:
    model = vitrim.reduce_tokens(small(), method_for("metr"))
    outputs: list[Any] = []
    model.blocks.collect_outputs(outputs, traced=True)
    model(images())
    assert outputs[0].source_BP.shape == (2, 48)
    assert [logits.shape for logits in outputs[0].collected("metr")] == [(2, 10)] * 2


def test_a_copy_of_a_reduced_model_stands_alone() -> None:
    model = vitrim.reduce_tokens(small(), method_for("evit"))
    wanted = model(images())
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    assert torch.equal(model(images()), wanted)
    assert not torch.equal(twin(images()), wanted)


@torch.no_grad()
def test_a_reduced_model_exports() -> None:
    model = vitrim.reduce_tokens(small(depth=3), "token_mergence", keep_rate=0.7, layers=(2,))
    program = torch.export.export(model, (images(),))
    torch.testing.assert_close(program.module()(images()), model(images()), atol=1e-5, rtol=1e-5)
