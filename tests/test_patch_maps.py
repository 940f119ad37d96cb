"""What patches get from the tokens that hold them, by hand, and the colours of their maps."""

from __future__ import annotations

import torch

from vitrim.core.tokens import Tokens
from vitrim.patch_maps import _group_means, filled, per_patch


def by_hand(*features: float) -> Tokens:
    """4 patches in a row after one prefix token: two in the second token, one in the first, one dropped."""
    x_BNC = torch.tensor([[[99.0], *([value] for value in features)]])
    return Tokens(x_BNC, 1, traced=True, source_BP=torch.tensor([[2, 1, -1, 2]]), weight_BP=torch.ones(1, 4))


def test_rules_of_a_case_done_by_hand():
    before = torch.tensor([[[1.0], [2.0], [3.0], [5.0]]])

    def result(fill: str, shared: str) -> list[float]:
        x_BPC, gone_BP = per_patch(by_hand(10.0, 20.0), before, fill, shared)
        return filled(x_BPC, gone_BP, fill, columns=4).flatten().tolist()

    assert result("zero", "token") == [20.0, 10.0, 0.0, 20.0]
    assert result("last", "token") == [20.0, 10.0, 3.0, 20.0]
    assert result("nearest", "token") == [20.0, 10.0, 10.0, 20.0]
    assert result("zero", "offset") == [18.0, 10.0, 0.0, 22.0]  # 1 and 5 differ from their mean, 3, by 2
    assert result("drift", "token") == [20.0, 10.0, 3.0 + (19 + 8 + 15) / 3, 20.0]
    assert result("last", "fill") == [1.0, 10.0, 3.0, 5.0]
    assert result("drift", "fill") == [1.0 + 8, 10.0, 3.0 + 8, 5.0 + 8]
    assert result("nearest", "fill") == [10.0] * 4


def test_nearest_is_nearest_in_two_dimensions():
    x_BPC = torch.arange(6.0).view(1, 6, 1)  # 3 rows of 2
    gone_BP = torch.tensor([[True, False, True, True, False, False]])
    assert filled(x_BPC, gone_BP, "nearest", columns=2).flatten().tolist() == [1, 1, 4, 1, 4, 5]


def test_colours_of_the_first_maps_hold_for_all():
    import numpy as np

    from vitrim.draw_features import colours

    first = np.random.default_rng(0).normal(size=(2, 8, 3, 4)).astype(np.float32)
    one, other = colours([first, first[:, :, ::-1]])
    assert one.shape == (2, 3, 4, 3)
    assert (one[:, ::-1] == other).all()
    assert one.std() > 30


def test_means_over_many_patches_are_those_of_fp32_in_bf16():
    x_BPC = torch.rand(1, 1000, 3, generator=torch.Generator().manual_seed(0)) + 1
    at_BP, held_BP = torch.zeros(1, 1000, dtype=torch.long), torch.ones(1, 1000, dtype=torch.bool)
    got = _group_means(x_BPC.bfloat16(), at_BP, held_BP, 1)[0, 0].float()
    torch.testing.assert_close(got, x_BPC.bfloat16().float().mean(dim=1)[0], atol=0, rtol=0.004)
