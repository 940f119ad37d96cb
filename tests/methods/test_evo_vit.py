"""Evo-ViT: counts by stage, who waits and comes back, the fast update by hand, what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

import vitrim
from conformance import families
from vitrim.testing import leaving_blocks

IMAGES = families.small_images("vit").double()


def reduced(**settings: Any) -> Any:
    return vitrim.reduce_tokens(families.small_model("vit").double(), vitrim.EvoViT(**settings))


def test_a_stage_carries_a_share_of_all_patches_and_one_token_for_the_others(moment: Any) -> None:
    spec = replace(moment.spec, depth=12, num_patches=196)
    built = vitrim.EvoViT(keep_rate=(0.5, 0.7)).build(spec)
    assert built.layers == (4, 8)
    assert [built.num_kept(4, 196), built.num_kept(8, 99)] == [99, 138]
    assert [built.num_attentive(4, 196), built.num_attentive(8, 99)] == [98, 137]
    released = vitrim.EvoViT(fast_update=False).build(spec)
    assert [released.num_kept(4, 196), released.num_kept(8, 98)] == [98, 98]
    assert built.build(spec) == built


def test_layer_wise_selects_before_every_block_from_the_first_stage_on(moment: Any) -> None:
    spec = replace(moment.spec, depth=12, num_patches=196)
    built = vitrim.EvoViT(layer_wise=True, keep_rate=(0.7, 0.4)).build(spec)
    assert built.layers == tuple(range(4, 12))
    assert built.keep_rate == (0.7,) * 4 + (0.4,) * 4
    assert built.build(spec) == built


@pytest.mark.parametrize("fast_update", [True, False])
def test_all_patches_are_back_behind_the_last_block(fast_update: bool) -> None:
    model = reduced(layers=(2,), fast_update=fast_update)
    with torch.no_grad():
        assert model.forward_features(IMAGES).shape[1] == 65
    with torch.no_grad(), leaving_blocks(model, traced=True) as seen:
        model(IMAGES)
    source_BP = seen[3].source_BP
    assert source_BP is not None
    assert (source_BP == (33 if fast_update else -1)).sum(dim=1).tolist() == [32, 32]


def test_a_placeholder_gets_what_the_representative_token_gained() -> None:
    model = reduced(layers=(3,))
    with torch.no_grad(), leaving_blocks(model, traced=True) as seen:
        out_BNC = model.blocks(model._pos_embed(model.patch_embed(IMAGES)))
    score_BP, before_BPC, keep_BK, gathered_B1C = seen[4].memory
    waits_BP = torch.ones_like(score_BP, dtype=torch.bool).scatter(1, keep_BK, False)
    assert torch.equal(before_BPC, seen[2].patches_BNC)
    weight_BP = torch.where(waits_BP, score_BP, 0)
    mean_BC = (weight_BP.unsqueeze(2) * before_BPC).sum(dim=1) / weight_BP.sum(dim=1, keepdim=True)
    torch.testing.assert_close(gathered_B1C[:, 0], mean_BC)
    wanted_BPC = before_BPC + seen[4].x_BNC[:, -1:] - gathered_B1C
    torch.testing.assert_close(out_BNC[:, 1:][waits_BP], wanted_BPC[waits_BP])


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="block 0 cannot reduce by the attention of the block before it"):
        reduced(layers=(0, 2))
    with pytest.raises(ValueError, match="2 reducing layers need 2 keep rates, not 3"):
        reduced(keep_rate=(0.5, 0.5, 0.5))
