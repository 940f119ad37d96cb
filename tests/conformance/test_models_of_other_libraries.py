"""What holds for every method on models of torchvision, transformers and open_clip."""

from __future__ import annotations

import copy
import pickle

import families
import other_libraries as others
import pytest
import torch
from other_libraries import CASES, COVERING, FAMILIES, HERE
from torch import nn

import vitrim
from every_method import FIXED
from library_models import DEPTH, PATCHES, images, output, stack_of
from vitrim.backbones.reader import find_stack, read_backbone
from vitrim.core.stack import Snapshot
from vitrim.measure.budget.formula import reduced_macs
from vitrim.measure.macs import count_macs
from vitrim.methods import settings_of
from vitrim.testing import leaving_blocks

every_case = pytest.mark.parametrize(("family", "name"), CASES, ids=["-".join(case) for case in CASES])
covering_cases = pytest.mark.parametrize(("family", "name"), COVERING, ids=["-".join(case) for case in COVERING])
every_family = pytest.mark.parametrize("family", HERE)


@every_family
def test_the_facts_are_read(family: str) -> None:
    known, spec = FAMILIES[family], read_backbone(others.small_model(family)).spec
    assert (spec.num_prefix, spec.num_classes, spec.num_patches) == (known.num_prefix, known.num_classes, PATCHES)
    assert (spec.depth, spec.channels, spec.attention_channels) == (DEPTH, 48, 48)
    assert spec.has_cls == (family not in others.NO_CLASS_TOKEN)
    averages = ("hf_dinov2", "hf_dinov2_registers", "hf_clip_classifier", "oc_custom_average")
    hands_out = ("hf_dinov3", "hf_clip")  # without classes: whoever takes the patches may pool them
    assert spec.pools_patches == (family in (*averages, *hands_out, "hf_siglip", "oc_attention_pool"))


@every_case
def test_keeping_all_is_bit_identical_to_the_unreduced_model(family: str, name: str) -> None:
    model, x = others.small_model(family), images()
    wanted = output(model, x)
    vitrim.reduce_tokens(model, others.method_that_keeps_all(name, family))
    assert torch.equal(output(model, x), wanted)
    with torch.inference_mode():  # nn.MultiheadAttention has another kernel for it
        assert torch.equal(output(model, x), output(vitrim.restore(model), x))


@every_case
@torch.no_grad()
def test_counts_are_the_announced_ones_and_a_batch_equals_its_images(family: str, name: str) -> None:
    model, x = others.reduced(family, name), images(3)
    stack = stack_of(model)
    with leaving_blocks(model) as seen:
        batch = output(model, x)
    counts = [max(tokens.num_tokens_B) for tokens in seen[:-1]]
    announced, patches = [], PATCHES
    for layer in range(DEPTH):
        patches = stack.method.num_kept(layer, patches)
        announced.append(stack.spec.num_prefix + patches)
    if stack.method.varies:  # what any image keeps at most
        assert all(count <= most for count, most in zip(counts, announced, strict=False))
    else:
        assert counts == announced[:-1]
    assert counts[-1] < stack.spec.num_prefix + PATCHES
    least = 0.0 if families.METHODS[name].brings_back else 1e-3  # small scales of blocks change little of those
    assert not torch.allclose(batch, output(others.small_model(family), x), atol=least)
    one_by_one = torch.cat([output(model, image.unsqueeze(0)) for image in x])
    torch.testing.assert_close(batch, one_by_one, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize(("family", "name"), [case for case in COVERING if case[1] in FIXED])
def test_the_formula_equals_the_counter(family: str, name: str) -> None:
    model = others.small_model(family)
    macs, spec = count_macs(model), read_backbone(model).spec
    few = 16 if families.METHODS[name].forms_matrix else 6  # at few patches, some scores cost more than they save
    more = {"r": few} if "r" in settings_of(name) else {}
    vitrim.reduce_tokens(model, others.method_for(name, family, **more))
    assert count_macs(model) == reduced_macs(macs, spec, stack_of(model).method) < macs


@covering_cases
def test_keys_are_those_of_the_plain_model_and_restore_brings_the_same_blocks_back(family: str, name: str) -> None:
    model, x = others.small_model(family), images()
    wanted, keys = output(model, x), list(model.state_dict())
    modules = dict(model.named_modules())
    hooks = {key: len(module._forward_pre_hooks) for key, module in modules.items()}
    attributes = {key: set(module.__dict__) for key, module in modules.items()}
    vitrim.reduce_tokens(model, others.method_for(name, family))
    own = [key for key in model.state_dict() if ".method." in key]
    assert bool(own) == (name in families.LEARNING)
    assert [key for key in model.state_dict() if key not in own] == keys
    output(model, x)
    assert vitrim.restore(model) is model
    assert list(model.named_modules()) == list(modules.items())
    assert {key: len(module._forward_pre_hooks) for key, module in modules.items()} == hooks
    assert {key: set(module.__dict__) for key, module in modules.items()} == attributes
    assert torch.equal(output(model, x), wanted)


@covering_cases
def test_deepcopy_and_pickle_compute_the_same_and_are_independent(family: str, name: str) -> None:
    model, x = others.reduced(family, name), images()
    wanted = output(model, x)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(output(twin, x), wanted)
        with torch.no_grad():
            for parameter in stack_of(twin)[0].parameters():
                parameter.mul_(1.5)
        changed = output(twin, x)
        assert not torch.equal(changed, wanted)
        vitrim.restore(twin)
        assert find_stack(twin) is None
        assert not torch.equal(output(twin, x), output(others.small_model(family), x))
        assert torch.equal(output(model, x), wanted)


@covering_cases
def test_a_training_step_reaches_every_parameter_of_the_blocks(family: str, name: str) -> None:
    model = others.reduced(family, name).train()
    before = output(model, images())
    (before * torch.linspace(-1, 1, before.shape[1])).sum().backward()  # its square may be fixed by a normalisation
    for key, parameter in stack_of(model).named_parameters():
        if ".method." in key:
            continue
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
        assert parameter.grad.any(), key
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    assert not torch.equal(output(model, images()), before)


@covering_cases
@torch.no_grad()
def test_autocast_is_finite_and_near_fp32(family: str, name: str) -> None:
    model, x = others.reduced(family, name), images()
    wanted = output(model, x)
    with torch.autocast("cpu", torch.bfloat16):
        got = output(model, x)
    assert got.isfinite().all()
    assert nn.functional.cosine_similarity(got.float(), wanted).min() > 0.7  # other tokens may be kept


@pytest.mark.parametrize(("family", "name"), [(family, "tome") for family in HERE])
@torch.no_grad()
def test_no_patch_points_into_the_prefix(family: str, name: str) -> None:
    model, snapshots = others.reduced(family, name), list[Snapshot]()
    stack = stack_of(model)
    stack.record_into(snapshots)
    output(model, images())
    assert snapshots
    for _, tokens in snapshots:
        assert tokens.source_BP is not None
        held = tokens.source_BP[tokens.source_BP >= 0]
        assert int(held.min()) >= tokens.num_prefix == FAMILIES[family].num_prefix


@every_family
@torch.no_grad()
def test_a_head_that_reads_patches_sees_merged_ones_once_for_each(family: str) -> None:
    if not read_backbone(others.small_model(family)).spec.pools_patches:
        pytest.skip("its head reads the class token")
    model, x = others.reduced(family, "tome", r=[0, 10, 0, 0, 20]), images()
    leaving: list[torch.Tensor] = []
    stack = stack_of(model)
    handle = stack[-1].register_forward_hook(lambda _, __, out: leaving.append(out))
    output(model, x)
    handle.remove()
    spec = stack.spec
    assert leaving[0].shape[1] == spec.num_prefix + PATCHES
    assert len(leaving[0][0, spec.num_prefix :].unique(dim=0)) == PATCHES - 30


@pytest.mark.parametrize("family", [name for name in HERE if name in others.NO_CLASS_TOKEN])
def test_a_model_without_a_class_token_needs_another_scorer(family: str) -> None:
    with pytest.raises(ValueError, match="scorer='received'"):
        vitrim.reduce_tokens(others.small_model(family), "evit")
