"""Representation Shift as a scorer: how far the MLP carries a feature, known behind the MLP."""

from __future__ import annotations

import pytest
import torch

import vitrim
from conformance import families
from vitrim.measure.budget.formula import block_macs
from vitrim.measure.macs import count_macs
from vitrim.testing import leaving_blocks


@pytest.mark.parametrize("family", ["vit", "gap"])
@torch.no_grad()
def test_the_patches_that_the_mlp_carries_least_are_dropped_behind_it(family: str) -> None:
    model, images = families.small_model(family), families.small_images(family)
    block, x_BNC = model.blocks[0], families.embedded(model, images)
    between_BNC = x_BNC + block.attn(block.norm1(x_BNC))
    branch_BNC = block.mlp(block.norm2(between_BNC))
    prefix = model.num_prefix_tokens
    shift_BN = (branch_BNC - between_BNC).norm(dim=-1)[:, prefix:]
    keep_BK = shift_BN.argsort(dim=1, descending=True)[:, :32]
    method = vitrim.EViT(keep_rate=0.5, layers=(0,), scorer="shift", fuse=False)
    with leaving_blocks(vitrim.reduce_tokens(model, method)) as seen:
        model(images)
    wanted_BKC = (between_BNC + branch_BNC)[:, prefix:].gather(1, keep_BK.unsqueeze(-1).expand(-1, -1, 48))
    torch.testing.assert_close(seen[0].patches_BNC, wanted_BKC)


@pytest.mark.parametrize("name", ["evit", "token_mergence", "beyond_attentive", "attention_mass"])
@torch.no_grad()
def test_every_method_with_a_scorer_takes_it(name: str) -> None:
    model = vitrim.reduce_tokens(families.small_model("gap"), name, scorer="shift")
    with leaving_blocks(model) as seen:
        assert model(families.small_images("gap")).isfinite().all()
    assert seen[-1].num_patches < 64


def test_the_mlp_that_ran_on_all_patches_is_counted() -> None:
    model = families.small_model("vit")
    unreduced = count_macs(model)
    spec = vitrim.reduce_tokens(model, "representation_shift").blocks.spec
    method = vitrim.create_method("representation_shift")
    assert count_macs(model) == unreduced - block_macs(spec, None) + block_macs(spec, method)
    assert block_macs(spec, method) > block_macs(spec, vitrim.create_method("feature_norm"))
