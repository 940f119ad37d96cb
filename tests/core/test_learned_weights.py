"""What a method learns: where it lives, how it travels, and the layers that learn to make tokens fewer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

import vitrim
from vitrim.core import ops
from vitrim.core.method import Method
from vitrim.core.spec import ViTSpec
from vitrim.core.tokens import Tokens
from vitrim.methods.bat.grouping import consecutive
from vitrim.methods.bat.subsample import TAPS, Convolution, Gate, tap_matrix
from vitrim.testing import leaving_blocks

SIZES = [(1, 1), (2, 1), (5, 2), (7, 7), (12, 4), (13, 4), (59, 6), (59, 40)]  # tokens, groups
each_size = pytest.mark.parametrize(("M", "G"), SIZES)


class Scale(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.factor = nn.Parameter(torch.full((channels,), 2.0))  # a parameter of its own, no child


@dataclass(frozen=True)
class Scaling(Method):
    """Multiplies the tokens after block 1, and tells their sum to whoever listens."""

    name = "scaling"

    def make_weights(self, layer: int, spec: ViTSpec) -> nn.Module | None:
        return Scale(spec.channels) if layer == 1 else None

    def after_block(self, layer: int, tokens: Tokens) -> Tokens:
        weights: Any = self.weights
        if weights is None:
            return tokens
        tokens = tokens._replace(x_BNC=tokens.x_BNC * weights.factor)
        return tokens.collect(self.name, tokens.x_BNC.sum(dim=(1, 2)))


@pytest.fixture
def model(tiny_vit: Callable[..., VisionTransformer]) -> VisionTransformer:
    return vitrim.reduce_tokens(tiny_vit(depth=4, patch_size=8).eval(), Scaling())


def test_weights_lie_in_the_block_where_they_act_and_leave_with_the_method(model: VisionTransformer) -> None:
    assert [key for key in model.state_dict() if "method" in key] == ["blocks.1.method.factor"]
    assert "blocks.1.method.factor" in dict(model.named_parameters())
    assert model.blocks[1].acting.bound.weights is model.blocks[1].weights
    assert [block.acting.bound.weights is None for block in model.blocks] == [True, False, True, True]
    vitrim.restore(model)
    assert not [key for key in model.state_dict() if "method" in key]


def test_weights_follow_the_block_in_device_dtype_and_mode(tiny_vit: Callable[..., VisionTransformer]) -> None:
    model = vitrim.reduce_tokens(tiny_vit(depth=4).double().train(), Scaling())
    assert model.blocks[1].weights.factor.dtype == torch.float64
    assert model.blocks[1].weights.training
    assert not model.eval().blocks[1].weights.training
    assert model.bfloat16().blocks[1].weights.factor.dtype == torch.bfloat16
    model(torch.randn(1, 3, 32, 32, dtype=torch.bfloat16))


def test_weights_of_metr_and_of_its_method_lie_together(tiny_vit: Callable[..., VisionTransformer]) -> None:
    plain = vitrim.reduce_tokens(tiny_vit(depth=4), Scaling())
    model = vitrim.reduce_tokens(tiny_vit(depth=4), vitrim.METR(method=Scaling(), exits=(1,)))
    assert {"blocks.1.method.factor", "blocks.1.method.exit.1.weight"} <= set(model.state_dict())
    images = torch.randn(1, 3, 32, 32)
    assert torch.equal(model(images), plain(images))
    model = vitrim.reduce_tokens(tiny_vit(depth=4), vitrim.METR(method=Scaling(), exits=(2,)))
    assert {"blocks.1.method.factor", "blocks.2.method.exit.1.weight"} <= set(model.state_dict())


def test_what_is_told_reaches_those_who_listen_and_nobody_else(model: VisionTransformer) -> None:
    images, outputs = torch.randn(2, 3, 32, 32), list[Tokens]()
    with leaving_blocks(model) as seen:
        quiet = model(images)
        model.blocks.collect_outputs(outputs)
        assert torch.equal(model(images), quiet)
        model.blocks.collect_outputs(None)
        assert torch.equal(model(images), quiet)
    told = [tokens.aux for tokens in seen[2::4]]
    assert [None if aux is None else len(aux) for aux in told] == [None, 1, None]
    assert len(outputs) == 1
    assert outputs[0].aux is not None


@each_size
def test_taps_are_means_of_runs_within_each_group(M: int, G: int) -> None:
    groups = consecutive(1, M, G, torch.device("cpu"))
    members: list[list[int]] = [[centre] for centre in groups.centre[0].tolist()]
    for member, slot in zip(groups.member[0].tolist(), groups.slot[0].tolist(), strict=True):
        members[slot].append(member)
    matrix_LM = tap_matrix(M, G, torch.zeros(1, dtype=torch.float64))
    assert matrix_LM.shape == (G * TAPS, M)
    for group, rows_TM in zip(members, matrix_LM.view(G, TAPS, M), strict=True):
        reached = [row_M.nonzero().flatten().tolist() for row_M in rows_TM]
        assert [i for run in reached for i in run] == sorted(i for run in reached for i in run)
        assert {i for run in reached for i in run} == set(group)
        assert len(group) < TAPS or sum(map(len, reached)) == len(group)  # then no token is in two taps
        for row_M, run in zip(rows_TM, reached, strict=True):
            assert row_M[run].tolist() == pytest.approx([1 / len(run)] * len(run))


@each_size
def test_a_new_convolution_is_the_mean_that_its_shares_say(M: int, G: int) -> None:
    convolution, x_BMC = Convolution(5).double(), torch.randn(2, M, 5, dtype=torch.float64)
    share_M = Convolution.shares(M, G, x_BMC)
    group_M = torch.arange(M) * G // M
    wanted = torch.zeros(2, G, 5, dtype=torch.float64).index_add(1, group_M, x_BMC * share_M[:, None])
    torch.testing.assert_close(convolution(x_BMC, G), wanted)
    torch.testing.assert_close(
        torch.zeros(G, dtype=torch.float64).index_add(0, group_M, share_M), torch.ones(G).double()
    )


def test_a_convolution_tells_positions_and_channels_apart_and_groups_never_mix() -> None:
    convolution, x_BMC = Convolution(2), torch.randn(1, 12, 2)
    with torch.no_grad():
        convolution.conv.weight.zero_()[0, 1, 2] = 1.0  # channel 1 of the last tap into channel 0
    out = convolution(x_BMC, 2)
    torch.testing.assert_close(out[0, :, 0], torch.stack([x_BMC[0, 4:6, 1].mean(), x_BMC[0, 10:12, 1].mean()]))
    assert not out[0, :, 1].any()


def test_a_gate_starts_at_one_and_scales_by_content() -> None:
    gate, x_BMC = Gate(8), torch.randn(2, 6, 8)
    assert torch.equal(gate(x_BMC), torch.ones(2, 6))
    nn.init.normal_(gate.fc2.weight, std=20)
    factor_BM = gate(x_BMC).detach()
    assert 0 < float(factor_BM.min()) < 0.99 < 1.01 < float(factor_BM.max()) < 2
    torch.testing.assert_close(gate(x_BMC.flip(1)).detach(), factor_BM.flip(1))


def test_replaced_rows_keep_what_they_stand_for() -> None:
    x_BNC, rows_BKC = torch.randn(2, 6, 3), torch.randn(2, 2, 3, dtype=torch.float64)
    source_BP, weight_BP, size_BN = torch.tensor([[1, 5], [2, 4]]), torch.rand(2, 2), torch.ones(2, 6)
    tokens = Tokens(x_BNC, 1, size_BN, True, source_BP, weight_BP)
    out = ops.replace_last(tokens, rows_BKC)
    assert torch.equal(out.x_BNC, torch.cat([x_BNC[:, :4], rows_BKC.float()], dim=1))
    assert (out.source_BP is source_BP, out.weight_BP is weight_BP, out.size_BN is size_BN) == (True,) * 3
    assert torch.equal(ops.replace_last(tokens, rows_BKC[:, :0]).x_BNC, x_BNC)
