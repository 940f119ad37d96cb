"""Every patch can be followed through every method, at no cost to what the model computes."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torch.utils.checkpoint import set_checkpoint_early_stop

import vitrim
from every_method import FIXED, NAMES, PLAIN, WEIGHTED_MEANS, amount
from traced_models import reduced_vit, tiny_vit, traced
from vitrim.backbones.reader import find_stack
from vitrim.core.listening import listeners_of
from vitrim.testing import leaving_blocks
from vitrim.tracing import LayerTrace, trace

every_method = pytest.mark.parametrize("method", NAMES)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)
    torch.set_num_threads(1)


def stop_updating_features(model: VisionTransformer) -> None:
    """Blocks that add nothing to their input, so that only the reduction changes features."""
    for block in model.blocks:
        for linear in (block.attn.proj, block.mlp.fc2):
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)


def per_token(layer: LayerTrace, values_BP: torch.Tensor) -> torch.Tensor:
    """Values of patches, added up in their tokens: [B, P] -> [B, N]."""
    values_BP = values_BP.masked_fill(layer.source_BP < 0, 0.0)
    total_BN = values_BP.new_zeros(values_BP.shape[0], layer.num_tokens)
    return total_BN.scatter_add(1, layer.source_BP.clamp(min=0), values_BP)


@every_method
def test_every_patch_is_in_a_patch_token_or_dropped(method):
    t = traced(reduced_vit(method))
    assert t.layers
    for layer in t.layers:
        source, dropped = layer.source_BP, layer.source_BP == -1
        assert source.shape == (2, 64)
        assert (dropped | ((source >= layer.num_prefix) & (source < layer.num_tokens))).all()
        assert (layer.weight_BP[dropped] == 0).all()
        assert (layer.weight_BP[~dropped] > 0).all()


@every_method
def test_sizes_add_up_to_the_patches_that_are_left_and_no_token_is_empty(method):
    for layer in traced(reduced_vit(method)).layers:
        assert layer.size_BN.shape == (2, layer.num_tokens)
        assert layer.size_BN.sum(dim=1).equal((layer.source_BP >= 0).sum(dim=1))
        assert (layer.size_BN[:, : layer.num_prefix] == 0).all()
        filled = layer.size_BN[:, layer.num_prefix :] >= 1
        assert filled.all() or method not in FIXED
        assert (filled[:, 1:] <= filled[:, :-1]).all()  # what is padded comes last


@pytest.mark.parametrize("method", [name for name in NAMES if not PLAIN[name].propagates])
def test_weights_say_how_each_token_is_made_of_patches(method):
    model = tiny_vit()
    stop_updating_features(model)
    vitrim.reduce_tokens(model, method, **amount(method, per_block=6))
    before = []
    find_stack(model)[1][0].register_forward_pre_hook(lambda _, args: before.append(args[0]))
    t = traced(model, features=True)
    patches_BPC = before[0][:, 1:]
    for layer in t.layers:
        channel_0, channel_9 = (per_token(layer, layer.weight_BP * patches_BPC[..., c]) for c in (0, 9))
        torch.testing.assert_close(layer.features_BNC[:, 1:, 0], channel_0[:, 1:], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(layer.features_BNC[:, 1:, 9], channel_9[:, 1:], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(layer.features_BNC[:, 0], before[0][:, 0])


@pytest.mark.parametrize("method", [name for name in WEIGHTED_MEANS if name in FIXED])
def test_weights_of_a_mean_add_up_to_one(method):
    for layer in traced(reduced_vit(method)).layers:
        total_BK = per_token(layer, layer.weight_BP)[:, layer.num_prefix :]
        torch.testing.assert_close(total_BK, torch.ones_like(total_BK))


@every_method
def test_unmerging_token_indices_gives_the_sources(method):
    for layer in traced(reduced_vit(method)).layers:
        index_BN = torch.arange(layer.num_tokens).expand(2, -1)
        assert layer.unmerge(index_BN, fill=-1).equal(layer.source_BP)


@pytest.mark.parametrize("method", [name for name in NAMES if not PLAIN[name].brings_back])
def test_later_layers_never_split_or_revive_what_earlier_ones_merged_or_dropped(method):
    layers = traced(reduced_vit(method)).layers
    for earlier, later in pairwise(layers):
        assert (later.source_BP[earlier.source_BP < 0] == -1).all()
        for before, after in zip(earlier.groups(), later.groups(), strict=True):
            pairs = {(int(b), int(a)) for b, a in zip(before, after, strict=True) if b >= 0}
            assert len(pairs) == len({b for b, _ in pairs})


@every_method
def test_tracing_changes_no_bit_of_the_logits(method):
    model, images = reduced_vit(method), torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        before = model(images)
        with trace(model, features=True):
            during = model(images)
        after = model(images)
    assert before.equal(during)
    assert before.equal(after)


def test_sources_are_never_made_while_nobody_traces():
    model = reduced_vit()
    with leaving_blocks(model) as seen:
        model(torch.randn(1, 3, 64, 64))
        traced(model)
        model(torch.randn(1, 3, 64, 64))
    quiet, heard, again = (seen[i + 3].source_BP for i in (0, 4, 8))
    assert quiet is None
    assert heard is not None
    assert again is None


def test_the_prefix_holds_no_patch_whatever_its_length():
    models = {
        0: tiny_vit(class_token=False, global_pool="avg"),
        1: tiny_vit(),
        5: tiny_vit(reg_tokens=4),
    }
    for num_prefix, model in models.items():
        vitrim.reduce_tokens(model, "evit", scorer="norm")
        t = traced(model)
        assert (t.num_tokens, t.num_patches, t.batch_size) == (64 + num_prefix, 64, 2)
        for layer in t.layers:
            assert layer.num_prefix == num_prefix
            assert layer.source_BP.min() >= num_prefix
            assert layer.groups().min() == 0
            assert layer.groups().max() == layer.num_tokens - num_prefix - 1


def test_a_model_that_pools_its_patches_is_traced_too():
    model = tiny_vit(class_token=False, global_pool="avg")
    t = traced(vitrim.reduce_tokens(model, "token_mergence", scorer="received"))
    assert [layer.num_tokens for layer in t.layers] == [45, 32, 23]


def test_keeping_everything_gives_no_layers():
    assert traced(vitrim.reduce_tokens(tiny_vit(), "evit", keep_rate=1.0)).layers == ()


def test_layers_name_their_block_and_its_tokens():
    t = traced(vitrim.reduce_tokens(tiny_vit(), "evit", keep_rate=0.5, layers=(0, 2)))
    assert [(layer.layer, layer.num_tokens) for layer in t.layers] == [(0, 34), (2, 19)]


def test_features_are_kept_only_on_demand_and_without_their_graph():
    model = reduced_vit()
    assert all(layer.features_BNC is None for layer in traced(model).layers)
    with trace(model, features=True) as t:
        model(torch.randn(2, 3, 64, 64))
    for layer in t.layers:
        assert layer.features_BNC.shape == (2, layer.num_tokens, 32)
        assert not layer.features_BNC.requires_grad
        assert not layer.weight_BP.requires_grad


class GaveUpError(Exception):
    pass


def give_up(*_):
    raise GaveUpError


def test_a_trace_holds_the_last_complete_forward():
    model = reduced_vit()
    with trace(model) as t, torch.no_grad():
        model(torch.randn(2, 3, 64, 64))
        first = t.layers
        model(torch.randn(3, 3, 64, 64))
        second = t.layers
        failing = model.blocks[2].mlp.register_forward_hook(give_up)
        with pytest.raises(GaveUpError):
            model(torch.randn(1, 3, 64, 64))
        assert t.layers is second
        failing.remove()
        model(torch.randn(4, 3, 64, 64))
    assert [layer.source_BP.shape[0] for layer in (*first, *second, *t.layers)] == [2, 2, 2, 3, 3, 3, 4, 4, 4]


def test_forwards_outside_the_block_leave_the_trace_alone():
    model = reduced_vit()
    t = traced(model)
    layers = t.layers
    model(torch.randn(5, 3, 64, 64))
    assert t.layers is layers


def hooks_of(model):
    return [(list(part._forward_hooks), list(part._forward_pre_hooks)) for part in model.modules()]


def test_recording_stops_when_the_block_ends_even_by_an_exception():
    model = reduced_vit()
    before = hooks_of(model)
    failing = model.norm.register_forward_hook(give_up)
    with pytest.raises(GaveUpError), trace(model):
        model(torch.randn(1, 3, 64, 64))
    failing.remove()
    assert listeners_of(model.blocks.spec) == ()
    assert hooks_of(model) == before


def test_gradient_checkpointing_runs_blocks_again_and_the_trace_stays():
    model = reduced_vit().train()
    model.set_grad_checkpointing()
    with trace(model) as t, set_checkpoint_early_stop(False):
        logits = model(torch.randn(2, 3, 64, 64))
        layers = t.layers
        logits.sum().backward()
        assert t.layers is layers
    assert [layer.layer for layer in layers] == [1, 2, 3]


def test_a_compiled_model_runs_uncompiled_while_traced_and_is_not_compiled_again():
    graphs = []

    def compiler(graph, _):
        graphs.append(graph)
        return graph

    images, compiled = torch.randn(2, 3, 64, 64), torch.compile(reduced_vit(), backend=compiler)
    with torch.no_grad():
        before = compiled(images)
        t = traced(compiled, images)
        after = compiled(images)
    assert [layer.layer for layer in t.layers] == [1, 2, 3]
    assert before.equal(after)
    assert len(graphs) == 1


def test_tracing_twice_at_once_is_refused_and_leaves_the_first_at_work():
    model = reduced_vit()
    with trace(model) as t:
        with pytest.raises(ValueError, match="traced"), trace(model):
            pass
        model(torch.randn(1, 3, 64, 64))
    assert len(t.layers) == 3


def test_a_model_with_all_its_tokens_is_refused():
    with pytest.raises(ValueError, match="reduce_tokens"), trace(tiny_vit()):
        pass


def test_a_trace_without_a_forward_says_what_to_do():
    with trace(reduced_vit()) as t:
        pass
    for attribute in ("layers", "grid", "num_patches"):
        with pytest.raises(ValueError, match="call the reduced model"):
            getattr(t, attribute)


def by_hand() -> LayerTrace:
    """4 patches: two in token 2, one in token 1, one dropped. One prefix token."""
    source_BP, weight_BP = torch.tensor([[2, 1, -1, 2]]), torch.tensor([[0.25, 1.0, 0.0, 0.75]])
    return LayerTrace(3, 3, 1, source_BP, weight_BP)


def test_sizes_and_groups_of_a_case_done_by_hand():
    assert by_hand().size_BN.tolist() == [[0, 1, 2]]
    assert by_hand().groups().tolist() == [[1, 0, -1, 1]]


def test_unmerge_repeats_a_token_for_its_patches_and_marks_dropped_ones():
    values = by_hand().unmerge(torch.tensor([[7.0, 8.0, 9.0]]))
    assert values[0, [0, 1, 3]].tolist() == [9.0, 8.0, 9.0]
    assert math.isnan(values[0, 2])
    maps = by_hand().unmerge(torch.arange(6.0).view(1, 3, 2), fill=0)
    assert maps.tolist() == [[[4.0, 5.0], [2.0, 3.0], [0.0, 0.0], [4.0, 5.0]]]


def test_unmerge_refuses_what_it_cannot_lay_out():
    with pytest.raises(ValueError, match=r"\[1, 3, \.\.\.\].*\[1, 2\]"):
        by_hand().unmerge(torch.zeros(1, 2))
    with pytest.raises(ValueError, match="fill"):
        by_hand().unmerge(torch.zeros(1, 3, dtype=torch.long))
