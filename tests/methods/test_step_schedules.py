"""A schedule of steps: so many patches go in a few blocks, with one spelling for all methods."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import vitrim
from conformance import families
from vitrim.backbones.reader import read_backbone
from vitrim.compare.method_text import read_methods
from vitrim.testing import leaving_blocks

STEPPED = (
    "tome",
    "token_mergence",
    "beyond_attentive",
    "ppt",
    "evit",
    "tofu",
    "dtem",
    "atc",
    "gtp",
    "vid_tldr",
    "random",
)


@pytest.mark.parametrize("name", STEPPED)
@torch.inference_mode()
def test_as_many_patches_go_in_the_blocks_that_are_named_as_r_says(name: str) -> None:
    (choice,) = read_methods(f"{name} r=[11,20] layers=[2,4]")
    model = families.small_model("vit")
    vitrim.reduce_tokens(model, choice.method, **choice.settings)
    with leaving_blocks(model) as seen:
        model(families.small_images("vit"))
    assert [tokens.num_patches for tokens in seen] == [64, 64, 53, 53, 33]


@pytest.mark.parametrize("inattentive", ["cluster", "kmeans", "average", "spatial", "fuse", "drop"])
@pytest.mark.parametrize("match", [True, False])
@pytest.mark.parametrize("r", [1, 5, 40, 62])
def test_bats_groups_leave_what_r_says(inattentive: Any, match: bool, r: int) -> None:
    built = vitrim.BAT(r=r, layers=(1,), inattentive=inattentive, match=match).build(
        read_backbone(families.small_model("vit")).spec
    )
    assert [built.num_kept(layer, 64) for layer in range(3)] == [64, 64 - r, 64]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"r": 4, "keep_rate": 0.5}, "leave keep_rate out"),
        ({"r": 64, "layers": (1,)}, "r = 64 in block 1 is too large: 64 patches enter"),
        ({"r": [1, 2], "layers": (1,)}, "1 reducing layers need 1 numbers in r, not 2"),
        ({"r": -1}, "r is a number of patches"),
        ({"r": "few"}, "r is a number of patches"),
        ({"r": 4, "clusters": 3, "pairs": 2}, "leave clusters and pairs out"),
    ],
)
def test_steps_that_do_not_fit_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        vitrim.reduce_tokens(families.small_model("vit"), vitrim.BAT(**settings))


def test_a_schedule_of_steps_has_no_keep_rate_to_solve_for_or_to_warm_up() -> None:
    method = vitrim.TM(r=10)
    assert method.amount is None and not method.has_keep_rate
    with pytest.raises(ValueError, match="has no keep rate"):
        method.at_keep_rate(0.5)
    model = vitrim.reduce_tokens(families.small_model("vit"), method)
    assert vitrim.method_of(model).built_for(model.blocks.spec) == vitrim.method_of(model)  # type: ignore[union-attr]
