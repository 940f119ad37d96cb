"""Multiply-adds: the counter sees everything, and the formula agrees with it."""

from __future__ import annotations

import threading

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils import flop_counter

import vitrim
from every_method import FIXED, amount
from vitrim.backbones.reader import read_backbone
from vitrim.measure.budget.formula import block_macs, reduced_macs, token_counts
from vitrim.measure.macs import count_macs

# Keep rate, tokens after blocks 3, 6, 9 with and without fusion, and GMACs of DeiT-T, S, B with, and S without fusion.
TABLE = [
    (0.9, (179, 163, 148), (178, 161, 145), (1.094, 4.026, 15.40), 3.992),
    (0.8, (159, 129, 105), (158, 127, 102), (0.944, 3.480, 13.33), 3.447),
    (0.7, (140, 100, 72), (139, 98, 69), (0.822, 3.032, 11.62), 3.000),
    (0.6, (120, 74, 46), (119, 72, 44), (0.717, 2.638, 10.09), 2.611),
    (0.5, (100, 52, 28), (99, 50, 26), (0.630, 2.311, 8.82), 2.284),
]
SIZES = ("tiny", "small", "base")


@pytest.fixture(scope="module")
def deit():
    """Spec and counted multiply-adds of the unreduced DeiT models at 224 pixels."""
    found = {}
    for size in SIZES:
        model = timm.create_model(f"deit_{size}_patch16_224")
        found[size] = read_backbone(model).spec, count_macs(model)
    return found


@pytest.mark.parametrize(("size", "gmacs"), [("tiny", 1.26), ("small", 4.60), ("base", 17.6)])
def test_the_counter_gives_the_published_macs_of_deit(deit, size, gmacs):
    assert deit[size][1] / 1e9 == pytest.approx(gmacs, rel=0.006)  # 1.2537, rounded up in the literature


@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"keep {row[0]}")
def test_evit_on_deit_has_the_known_token_counts_and_macs(deit, row):
    keep_rate, fused, dropped, gmacs, small_dropped = row
    for fuse, wanted in ((True, fused), (False, dropped)):
        counts = token_counts(deit["small"][0], vitrim.EViT(keep_rate=keep_rate, fuse=fuse))
        assert (counts[2], counts[3], counts[6], counts[9]) == (197, *wanted)
    for size, wanted in zip(SIZES, gmacs, strict=True):
        spec, unreduced = deit[size]
        assert reduced_macs(unreduced, spec, vitrim.EViT(keep_rate=keep_rate)) / 1e9 == pytest.approx(wanted, rel=5e-3)
    spec, unreduced = deit["small"]
    found = reduced_macs(unreduced, spec, vitrim.EViT(keep_rate=keep_rate, fuse=False)) / 1e9
    assert found == pytest.approx(small_dropped, rel=5e-3)


@pytest.mark.parametrize("fuse", [True, False])
def test_the_formula_equals_the_counter_on_deit_tiny(deit, fuse):
    spec, unreduced = deit["tiny"]
    method = vitrim.EViT(keep_rate=0.7, fuse=fuse)
    model = vitrim.reduce_tokens(timm.create_model("deit_tiny_patch16_224"), method)
    assert count_macs(model) == reduced_macs(unreduced, spec, method)


@pytest.mark.parametrize("name", FIXED)
def test_the_formula_is_within_half_a_percent_of_the_counter_for_every_method(tiny_vit, name):
    model = tiny_vit()
    spec, unreduced = read_backbone(model).spec, count_macs(model)
    method = vitrim.create_method(name, **amount(name, per_block=4))
    formula = reduced_macs(unreduced, spec, method)
    assert count_macs(vitrim.reduce_tokens(model, method)) == pytest.approx(formula, rel=5e-3)
    assert formula < unreduced


@pytest.mark.parametrize(
    "settings",
    [{"reg_tokens": 3}, {"class_token": False, "global_pool": "avg"}, {"qk_norm": True, "init_values": 1e-5}],
    ids=str,
)
def test_the_formula_equals_the_counter_with_other_prefixes_and_blocks(tiny_vit, settings):
    model = tiny_vit(**settings)
    spec, unreduced = read_backbone(model).spec, count_macs(model)
    method = vitrim.EViT(keep_rate=0.5, scorer="norm", layers=(1, 4))
    assert count_macs(vitrim.reduce_tokens(model, method)) == reduced_macs(unreduced, spec, method)


def test_the_formula_follows_the_resolution(tiny_vit):
    model = tiny_vit(dynamic_img_size=True)
    spec, unreduced = read_backbone(model).spec, count_macs(model, (3, 48, 64))
    vitrim.reduce_tokens(model, "evit", keep_rate=0.6)
    assert count_macs(model, (3, 48, 64)) == reduced_macs(unreduced, spec, vitrim.EViT(keep_rate=0.6), 12 * 16)
    assert token_counts(spec, None, 12 * 16) == (193,) * 12


def test_blocks_alone_are_the_sum_of_their_products(tiny_vit):
    spec = read_backbone(tiny_vit()).spec
    attention, mlp = 65 * 4 * 48 * 48 + 2 * 65 * 65 * 48, 65 * 8 * 48 * 48
    assert block_macs(spec, None) == 12 * (attention + mlp)


class Attend(nn.Module):
    def __init__(self, bias):
        super().__init__()
        self.bias = bias

    def forward(self, x_BCHW):
        q = x_BCHW.flatten(2).unsqueeze(1)
        return F.scaled_dot_product_attention(q, q, q, torch.zeros(1, 1, 1, 8) if self.bias else None)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("registered", [True, False])
def test_fused_attention_is_counted_even_where_torch_passes_over_it(monkeypatch, bias, registered):
    if not registered:  # as in torch before 2.15
        flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        monkeypatch.delitem(flop_counter.flop_registry, flash, raising=False)
    assert count_macs(Attend(bias), (8, 4, 8)) == 2 * 8 * 8 * 32


def test_multi_head_attention_is_counted_and_its_fast_path_comes_back():
    class Attends(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(32, 4, batch_first=True)

        def forward(self, x_BCHW):
            x = x_BCHW.flatten(2)
            return self.attention(x, x, x, need_weights=False)[0]

    assert torch.backends.mha.get_fastpath_enabled()
    assert count_macs(Attends(), (8, 4, 8)) == 4 * 8 * 32 * 32 + 2 * 8 * 8 * 32
    assert torch.backends.mha.get_fastpath_enabled()


def test_counting_leaves_modes_and_precision_alone(tiny_vit):
    model = tiny_vit().train()
    model.blocks[3].eval()
    modes = [module.training for module in model.modules()]
    wanted = count_macs(model)
    assert [module.training for module in model.modules()] == modes
    assert count_macs(model.bfloat16()) == wanted


def test_an_attention_pool_is_counted_too() -> None:
    settings = {"img_size": 32, "patch_size": 4, "embed_dim": 48, "depth": 4, "num_heads": 3, "num_classes": 10}
    pooled = timm.models.VisionTransformer(**settings, class_token=False, global_pool="map")
    plain = timm.models.VisionTransformer(**settings, class_token=False, global_pool="avg")
    assert count_macs(pooled) > count_macs(plain)


class Layers(nn.Module):
    """A convolution, then a linear layer, as a ViT begins."""

    def __init__(self):
        super().__init__()
        self.quantized = torch.ao.quantization.QuantStub()
        self.patches = nn.Conv2d(3, 8, 4, 4)
        self.linear = nn.Linear(16, 6)
        self.plain = torch.ao.quantization.DeQuantStub()

    def forward(self, x_BCHW):
        return self.plain(self.linear(self.patches(self.quantized(x_BCHW)).flatten(2)))


LAYERS_MACS = 16 * 8 * 3 * 4 * 4 + 8 * 16 * 6


@pytest.mark.parametrize("dtype", [torch.qint8, torch.float16], ids=str)
@pytest.mark.filterwarnings("ignore")
def test_torchs_dynamic_quantization_counts_as_floating_point(tiny_vit, dtype):
    model = tiny_vit(depth=4)
    wanted = count_macs(vitrim.reduce_tokens(model, "evit", keep_rate=0.5))
    quantized = torch.ao.quantization.quantize_dynamic(vitrim.restore(model), {nn.Linear}, dtype=dtype)
    assert count_macs(vitrim.reduce_tokens(quantized, "evit", keep_rate=0.5)) == wanted


@pytest.mark.filterwarnings("ignore")
def test_torchs_static_quantization_counts_as_floating_point():
    model = Layers().eval()
    assert count_macs(model, (3, 16, 16)) == LAYERS_MACS
    model.qconfig = torch.ao.quantization.get_default_qconfig("x86")
    prepared = torch.ao.quantization.prepare(model)
    prepared(torch.randn(1, 3, 16, 16))
    assert count_macs(torch.ao.quantization.convert(prepared), (3, 16, 16)) == LAYERS_MACS


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("wrap", ["compile", "trace"])
def test_a_compiled_or_traced_model_counts_as_itself(wrap):
    model = Layers().eval()
    wrapped = torch.compile(model) if wrap == "compile" else torch.jit.trace(model, torch.randn(1, 3, 16, 16))
    assert count_macs(wrapped, (3, 16, 16)) == LAYERS_MACS


class Elsewhere(nn.Linear):
    """A layer that multiplies where torch does not see it, as kernels of other libraries do."""

    def forward(self, x):
        return torch.from_numpy(x.detach().numpy() @ self.weight.detach().numpy().T)


class Sparse(nn.Module):
    def forward(self, x_BCHW):
        return torch.sparse.mm(torch.eye(16).to_sparse(), x_BCHW[0, 0])


@pytest.mark.parametrize(
    ("model", "named"),
    [
        (nn.Sequential(nn.Linear(16, 4), Elsewhere(4, 2)), " 1 .*counted"),
        (Sparse(), "_sparse_addmm"),
    ],
    ids=["layer", "operation"],
)
def test_what_multiplies_unseen_is_refused_by_name(model, named):
    with pytest.raises(ValueError, match=named):
        count_macs(model, (3, 16, 16))


def test_a_product_with_a_vector_is_counted():
    class Vector(nn.Module):
        def forward(self, x_BCHW):
            return x_BCHW[0, 0] @ x_BCHW[0, 0, 0]

    assert count_macs(Vector(), (3, 16, 16)) == 16 * 16


@pytest.mark.filterwarnings("ignore")
def test_flex_attention_is_counted():
    from torch.nn.attention.flex_attention import flex_attention

    class Flex(nn.Module):
        def forward(self, x_BCHW):
            return flex_attention(x_BCHW, x_BCHW, x_BCHW)

    with torch.no_grad():
        assert count_macs(Flex(), (3, 16, 16)) == 2 * 3 * 16 * 16 * 16


@pytest.mark.parametrize("size", ["abc", 7, (3, 32), (3, 32, 0), (3, 32.0, 32), (3, None, 32)])
def test_a_size_that_is_none_is_refused(tiny_vit, size):
    with pytest.raises(ValueError, match=r"size.*channels, height and width"):
        count_macs(tiny_vit(), size)


@pytest.mark.parametrize("images", ["x", [], torch.ones(3, 32, 32), torch.ones(0, 3, 32, 32)])
def test_images_that_are_none_are_refused(tiny_vit, images):
    with pytest.raises(ValueError, match="one image"):
        count_macs(tiny_vit(), images_ICHW=images)


def test_counting_draws_nothing_from_the_callers_generators(tiny_vit):
    model = tiny_vit()
    before = torch.get_rng_state()
    count_macs(model)
    vitrim.benchmark({"a": model}, (3, 32, 32), batch_size=1, rounds=1, warmup=0)
    assert torch.equal(torch.get_rng_state(), before)


def test_another_thread_may_use_the_model_meanwhile(tiny_vit):
    model = tiny_vit()
    wanted = count_macs(model)

    def elsewhere(*_):
        if threading.current_thread() is threading.main_thread():
            other = threading.Thread(target=model.head, args=(torch.randn(1, model.head.in_features),))
            other.start()
            other.join()

    model.blocks[1].register_forward_pre_hook(elsewhere)
    assert count_macs(model) == wanted


@pytest.mark.parametrize(
    "measure",
    [
        lambda: count_macs(None, (3, 8, 8)),
        lambda: vitrim.cls_quality("deit", []),
        lambda: vitrim.record_exits(7, []),
        lambda: vitrim.method_for_keep_rate({}, "evit", 0.5),
        lambda: vitrim.benchmark({"a": None}),
        lambda: vitrim.evaluate_folder(nn.Linear, "nowhere"),
    ],
)
def test_what_is_no_model_is_refused_by_whatever_measures(measure):
    with pytest.raises(TypeError, match=r"torch\.nn\.Module"):
        measure()


@pytest.mark.parametrize("gmacs", ["x", None, True, float("nan"), [0.1]])
def test_a_target_of_another_kind_is_refused(tiny_vit, gmacs):
    with pytest.raises(ValueError, match="GMACs"):
        vitrim.method_for_macs(tiny_vit(), "evit", gmacs)


@pytest.mark.parametrize("scorer", ["cls", "received"])
def test_half_precision_counts_as_fp32(tiny_vit, scorer):
    counts = {
        count_macs(vitrim.reduce_tokens(tiny_vit(), "evit", keep_rate=0.5, scorer=scorer).to(dtype))
        for dtype in (torch.float32, torch.bfloat16, torch.float16)
    }
    assert len(counts) == 1
