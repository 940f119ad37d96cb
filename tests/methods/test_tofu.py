"""ToFu: early blocks drop, late ones keep the norm; what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

import vitrim


def test_blocks_up_to_the_middle_drop_and_later_ones_merge(moment: Any) -> None:
    assert vitrim.ToFu(r=2).build(replace(moment.spec, depth=12)).merge_from == 7
    method = vitrim.ToFu(r=6).build(moment.spec)
    assert method.merge_from == 3
    dropped, merged = (method.after_attention(layer, moment.tokens, moment.attention) for layer in (2, 3))
    assert ((dropped.source_BP < 0).sum(dim=1) == 6).all()
    assert (merged.source_BP >= 0).all()
    assert dropped.size_BN is None
    assert merged.size_BN is None
    assert torch.equal(dropped.x_BNC[:, :2], merged.x_BNC[:, :2])


def test_a_merged_token_has_the_largest_norm_of_its_group(moment: Any) -> None:
    built = {norm: vitrim.ToFu(r=6, merge_from=0, norm=norm).build(moment.spec) for norm in ("mean", "old", "plain")}
    out = {norm: each.after_attention(0, moment.tokens, moment.attention) for norm, each in built.items()}
    for image in range(2):
        for token in range(2, 36):
            members_MC = moment.patches()[image, out["mean"].source_BP[image] == token]
            largest, mean_C = members_MC.norm(dim=1).max(), members_MC.mean(dim=0)
            torch.testing.assert_close(out["mean"].x_BNC[image, token], mean_C * largest / mean_C.norm())
            torch.testing.assert_close(out["plain"].x_BNC[image, token], mean_C)
    assert not torch.allclose(out["old"].x_BNC, out["mean"].x_BNC)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"norm": "l2"}, "norm must be one of"), ({"merge_from": -1}, "merge_from is a block"), ({"r": 21}, "can merge")],
)
def test_what_does_not_fit_is_refused(moment: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"tofu: .*{message}"):
        vitrim.ToFu(**settings).build(moment.spec)
