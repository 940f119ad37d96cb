"""GTP: the graph, what flows along it, attention thinned out, settings that do not fit."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import vitrim
from conformance import families
from vitrim.core import ops
from vitrim.methods.gtp import own_and_received
from vitrim.testing import leaving_blocks


@pytest.mark.parametrize("density", [1.0, 0.5])
def test_the_score_is_own_attention_times_what_is_received_each_by_the_head_that_has_most(
    moment: Any, density: float
) -> None:
    matrix = moment.matrix_BHNN
    gone = 0 if density == 1 else int(42 * 42 * (1 - density)) - 1
    matrix = matrix * (matrix >= matrix.flatten(2).sort(dim=2).values[..., gone, None, None])
    wanted = matrix.diagonal(dim1=2, dim2=3).amax(dim=1) * matrix.sum(dim=2).amax(dim=1)
    attention = moment.attention._replace(density=density)
    torch.testing.assert_close(own_and_received(attention), wanted)
    torch.testing.assert_close(attention.output(), matrix @ attention.v_BHND)
    torch.testing.assert_close(attention.cls_row(), matrix[:, :, 0])
    torch.testing.assert_close(attention.received(), matrix.mean(dim=2))


@torch.no_grad()
def test_a_spatial_graph_joins_the_patches_around() -> None:
    model = families.reduced("vit", "gtp", graph="spatial")
    with leaving_blocks(model) as seen:
        model(families.small_images("vit"))
    graph_PP = seen[0].memory[0][0].view(8, 8, 8, 8)
    assert int((graph_PP > 0).sum()) == 4 * 3 + 24 * 5 + 36 * 8  # corners, edges, the rest
    assert graph_PP[0, 0, 1, 1] == pytest.approx((3 * 8) ** -0.5)
    assert graph_PP[0, 0, 0, 2] == 0


def test_a_graph_by_place_needs_a_square() -> None:
    model, images = families.small_model("dynamic_size"), families.small_images("dynamic_size")  # 6 x 10 patches
    vitrim.reduce_tokens(model, vitrim.GTP(r=3, graph="mixed"))
    with pytest.raises(ValueError, match=r"60 patches are no square: take graph='semantic'"):
        model(images)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"graph": "both"}, "graph must be one of semantic, spatial, mixed"),
        ({"alpha": 2}, "alpha is a number from 0 to 1"),
        ({"density": 0}, "density is a number above 0"),
        ({"neighbours": 0}, "neighbours is a whole number of at least 1"),
    ],
)
def test_settings_that_fit_no_model_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"gtp: {message}"):
        vitrim.GTP(**settings)


@torch.no_grad()
def test_what_is_kept_from_block_to_block_goes_with_its_image() -> None:
    model = families.reduced("vit", "gtp")
    with leaving_blocks(model) as seen:
        model(families.small_images("vit", 3))
    chosen = ops.select_images(seen[1], torch.tensor([2, 0]))
    for ours, all_of in zip(chosen.memory, seen[1].memory, strict=True):
        assert ours.equal(all_of[[2, 0]])


@torch.no_grad()
def test_the_graph_is_the_papers_where_patches_form_a_square_and_semantic_elsewhere() -> None:
    for family, graph in (("vit", "mixed"), ("dynamic_size", "semantic")):
        images = families.small_images(family)
        ours = families.reduced(family, "gtp")(images)
        assert ours.equal(families.reduced(family, "gtp", graph=graph)(images))
    with pytest.raises(ValueError, match=r"mixed.*60 patches are no square"):
        families.reduced("dynamic_size", "gtp", graph="mixed")(families.small_images("dynamic_size"))
