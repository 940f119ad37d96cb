"""The counter sees every product of a forward, or refuses it by name."""

from __future__ import annotations

import threading

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils import flop_counter

import vitrim
from vitrim.measure.macs import count_macs


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
